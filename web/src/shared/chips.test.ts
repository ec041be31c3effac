import { describe, expect, it } from 'vitest'
import type { Quote } from '../api/types'
import { withChips } from './chips'

function quote(span: [number, number] | null, n?: number): Quote {
  return { text: '', source_id: 'doc_a', char: [0, 1], line: null, page: null, path: null, chapter: null, match: 'exact', span, ...(n ? { n } : {}) }
}

function shape(text: string, quotes: Quote[]): string {
  return withChips(text, quotes)
    .map((piece) => ('text' in piece ? piece.text : `<${piece.quote}>`))
    .join('')
}

describe('withChips', () => {
  it('puts a chip after the span, counted in code points', () => expect(shape('😀 lamp burns', [quote([2, 6])])).toBe('😀 lamp<0> burns'))

  it('replaces [n] by its chip and leaves other brackets alone', () =>
    expect(shape('He left [2], she [1] stayed [9].', [quote(null, 1), quote([0, 2], 2)])).toBe('He left <1>, she <0> stayed [9].'))

  it('leaves text without quotes as it is', () => expect(shape('plain [1]', [])).toBe('plain [1]'))

  it('stands behind the closing quotation mark', () => expect(shape('“It burns.” Yes.', [quote([1, 10])])).toBe('“It burns.”<0> Yes.'))

  it('takes several chips at one place and at the end', () => expect(shape('abc', [quote([0, 3]), quote([1, 3])])).toBe('abc<0><1>'))
})
