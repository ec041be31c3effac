import { describe, expect, it } from 'vitest'
import { apply, begin, type Live } from './live'

const QUOTE = { n: 1, text: 'the lamp', source_id: 'doc_a', char: [4, 12], line: [1, 1], page: null, path: null, chapter: 0, match: 'exact' }

function run(...events: [string, unknown][]): Live {
  return events.reduce((live, [event, data]) => apply(live, event, data), begin('doc_a', 'ses_a', 'Who?'))
}

describe('a live answer', () => {
  it('grows by deltas and citations', () => {
    const live = run(['message.created', { id: 'msg_1', job_id: 'job_1' }], ['delta', { text: 'See ' }], ['delta', { text: 'it.' }], ['citation', QUOTE])
    expect(live).toMatchObject({ id: 'msg_1', job: 'job_1', text: 'See it.', quotes: [QUOTE] })
  })

  it('shows what the model says until the checked answer comes', () => {
    const first = run(['draft', { text: '“', n: 0, look: 1 }], ['draft', { text: ' green', n: 1, look: 1 }])
    expect(first.draft).toEqual({ look: 1, text: '“ green' })
    const second = apply(first, 'draft', { text: '“', n: 0, look: 2 })
    expect(second.draft).toEqual({ look: 2, text: '“' })
    expect(apply(second, 'delta', { text: 'the seventh hook' })).toMatchObject({ draft: null, text: 'the seventh hook' })
  })

  it('begins anew when another worker takes the question up', () => {
    const live = run(['draft', { text: 'half', n: 0, look: 1 }], ['delta', { text: 'x' }], ['citation', QUOTE], ['message.created', { id: 'msg_1', job_id: 'job_1' }])
    expect(live).toMatchObject({ draft: null, text: '', quotes: [] })
  })

  it('ends as the message that the server sent, with the restore time told before', () => {
    const live = run(['state.restored', { ms: 412, tokens: 9 }], ['delta', { text: 'x' }], ['message.completed', { id: 'msg_1', answer: 'X.', quotes: [], origin: 'read' }])
    expect(live.completed).toMatchObject({ id: 'msg_1', question: 'Who?', answer: 'X.', origin: 'read', timing: { restore_ms: 412 } })
  })

  it('keeps what has come when an error arrives, and ignores events it does not know', () => {
    const live = run(['delta', { text: 'half' }], ['moon.phase', {}], ['error', { detail: 'The engine is restarting.' }])
    expect(live).toMatchObject({ text: 'half', problem: { detail: 'The engine is restarting.' } })
  })
})
