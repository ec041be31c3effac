/** An answer while it arrives: each event of its stream makes the next state. */
import type { Message, Problem, Progress, Quote } from '../../api/types'
import { progressWords } from '../../shared/format'

export interface Live {
  source: string
  session: string | null // null until the session has been made
  question: string
  id: string
  job: string | null
  draft: Draft | null // what the model says, not checked yet
  text: string
  quotes: Quote[]
  restoredMs: number | null
  doing: string // what happens until words come
  problem: Partial<Problem> | null
  completed: Message | null
}

export interface Draft {
  look: number // the first from the whole reading, the second from passages
  text: string
}

export function begin(source: string, session: string | null, question: string): Live {
  return {
    source, session, question, id: 'live', job: null, draft: null, text: '', quotes: [], restoredMs: null,
    doing: 'Sending the question', problem: null, completed: null,
  }
}

export function apply(live: Live, event: string, data: unknown): Live {
  switch (event) {
    case 'message.created': {
      const { id, job_id } = data as { id: string; job_id?: string | null }
      // a second one: another worker begins again, and what came so far is void
      return { ...live, id, job: job_id ?? null, draft: null, text: '', quotes: [], doing: 'Finding the place in the reading' }
    }
    case 'state.restored': {
      const { ms } = data as { ms: number }
      return { ...live, restoredMs: ms, doing: 'Looking in the text' }
    }
    case 'reading.progress':
      return { ...live, doing: `Reading ${progressWords(data as Progress)}` }
    case 'draft':
      return { ...live, draft: grown(live.draft, data as Draft) }
    case 'delta':
      return { ...live, draft: null, text: live.text + (data as { text: string }).text }
    case 'citation':
      return { ...live, quotes: [...live.quotes, data as Quote] }
    case 'message.completed':
      return { ...live, completed: completed(live, data as Partial<Message>) }
    case 'error':
      return { ...live, problem: data as Problem }
    default:
      return live
  }
}

/** A second look begins a draft of its own. */
function grown(draft: Draft | null, piece: Draft): Draft {
  return { look: piece.look, text: (draft?.look === piece.look ? draft.text : '') + piece.text }
}

function completed(live: Live, message: Partial<Message>): Message {
  return {
    id: live.id, origin: null, usage: null, status: 'succeeded',
    ...message,
    question: message.question ?? live.question,
    answer: message.answer ?? live.text,
    quotes: message.quotes ?? live.quotes,
    timing: withRestore(message.timing ?? null, live.restoredMs),
  }
}

function withRestore(timing: Message['timing'], restoredMs: number | null): Message['timing'] {
  return restoredMs === null || timing?.restore_ms !== undefined ? timing : { ...timing, restore_ms: restoredMs }
}
