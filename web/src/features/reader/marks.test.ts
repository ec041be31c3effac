import { describe, expect, it } from 'vitest'
import type { Quote } from '../../api/types'
import { marksOf, segments, type Mark } from './marks'

function mark(from: number, to: number, active = false, n = 1): Mark {
  return { char: [from, to], n, active }
}

function shape(text: string, from: number, marks: Mark[]): string {
  return segments(text, from, marks)
    .map((part) => (part.mark ? `[${part.text}]${part.mark.n}` : part.text))
    .join('')
}

describe('segments', () => {
  it('cuts a mark out of the middle', () => expect(shape('one two three', 0, [mark(4, 7)])).toBe('one [two]1 three'))

  it('counts code points, so text after an emoji is still marked where Python said', () => {
    const text = '😀😀 the 𝔸 lamp 栞 burns'
    const at = [...text].indexOf('l')
    expect(shape(text, 0, [mark(at, at + 4)])).toBe('😀😀 the 𝔸 [lamp]1 栞 burns')
    expect(shape(text, 1000, [mark(1000 + at, 1004 + at)])).toBe('😀😀 the 𝔸 [lamp]1 栞 burns')
  })

  it('marks what lies inside when the mark reaches beyond either side', () => {
    expect(shape('middle', 100, [mark(50, 103)])).toBe('[mid]1dle')
    expect(shape('middle', 100, [mark(103, 900)])).toBe('mid[dle]1')
    expect(shape('middle', 100, [mark(0, 100), mark(106, 110)])).toBe('middle')
  })

  it('lets the later mark win where two overlap', () => {
    expect(shape('abcdef', 0, [mark(0, 4), mark(2, 6, true, 2)])).toBe('[ab]1[cd]2[ef]2')
  })

  it('never loses or adds a letter', () => {
    const text = 'a😀b𝔸c\nd'
    const parts = segments(text, 7, [mark(8, 9), mark(9, 12, true), mark(0, 99)])
    expect(parts.map((part) => part.text).join('')).toBe(text)
    expect(segments('', 0, [mark(0, 1)])).toEqual([])
  })
})

describe('marksOf', () => {
  const quote = (source_id: string, char: [number, number] | null): Quote => ({
    text: '', source_id, char, line: null, page: null, path: null, chapter: null, match: 'exact',
  })

  it('takes this source only, skips quotes without a place, and puts the active one last', () => {
    const quotes = [quote('doc_a', [5, 9]), quote('doc_b', [1, 2]), quote('doc_a', null), quote('doc_a', [1, 4])]
    const marks = marksOf({ owner: 'msg_1', quotes, active: 0, target: null }, 'doc_a')
    expect(marks.map((found) => [found.n, found.active])).toEqual([[4, false], [1, true]])
  })
})
