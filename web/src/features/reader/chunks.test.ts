import { describe, expect, it } from 'vitest'
import { CHUNK, chunkCount, chunksNear, fetchRange, trim } from './chunks'

/** Python's text[from:to]. */
function serve(text: string[], [from, to]: [number, number]) {
  return { from, text: text.slice(from, to).join('') }
}

function pieces(text: string) {
  const letters = [...text]
  return Array.from({ length: chunkCount(letters.length) }, (_, index) =>
    trim(serve(letters, fetchRange(index, letters.length)), index, letters.length),
  )
}

const TEXTS = {
  paragraphs: 'A sentence with a 😀 in it, and 栞.\n\n'.repeat(2000),
  lines: 'one line 𝔸 only\n'.repeat(3000),
  'one endless line': '😀x'.repeat(20_000),
  'long paragraphs': `${'word '.repeat(700)}\n\n`.repeat(12),
  'a paragraph end right on the border': `${'a'.repeat(CHUNK - 2)}\n\n${'b'.repeat(500)}`,
  'a paragraph end astride the border': `${'a'.repeat(CHUNK - 1)}\n\n${'b'.repeat(500)}`,
  short: 'hello',
  empty: '',
}

describe('chunks', () => {
  it.each(Object.entries(TEXTS))('put together are the text: %s', (_, text) => {
    expect(pieces(text).map((piece) => piece.text).join('')).toBe(text)
  })

  it('begin where they say, in code points', () => {
    const letters = [...TEXTS.paragraphs]
    for (const { from, text } of pieces(TEXTS.paragraphs)) expect(letters.slice(from, from + [...text].length).join('')).toBe(text)
  })

  it('are cut at the end of a paragraph', () => {
    for (const { text } of pieces(TEXTS.paragraphs)) expect(text.startsWith('A sentence') && text.endsWith('\n\n')).toBe(true)
  })

  it('that may show a character include the one before', () => {
    expect(chunksNear(10)).toEqual([0, 0])
    expect(chunksNear(CHUNK * 3 + 1)).toEqual([2, 3])
  })
})
