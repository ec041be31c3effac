/** A long text in pieces of about CHUNK code points, each cut where a paragraph ends, so that pieces load on their own. */
import type { Span } from '../../api/types'
import { codePointLength, codePointSlice } from '../../shared/codepoints'

export const CHUNK = 12_000
const LOOK_AHEAD = 2_000 // how far beyond the border a paragraph's end is looked for

export interface Piece {
  text: string
  from: number
}

export function chunkCount(characters: number): number {
  return Math.max(1, Math.ceil(characters / CHUNK))
}

/** What must be fetched to know both ends of a chunk. */
export function fetchRange(index: number, characters: number): Span {
  return [Math.max(0, index * CHUNK - 2), Math.min(characters, (index + 1) * CHUNK + LOOK_AHEAD)]
}

/** The part of the fetched text that this chunk shows; its neighbours show the rest, by the same rule. */
export function trim(fetched: Piece, index: number, characters: number): Piece {
  const from = border(fetched, index * CHUNK, characters)
  const to = border(fetched, (index + 1) * CHUNK, characters)
  return { from, text: codePointSlice(fetched.text, from - fetched.from, to - fetched.from) }
}

/** The first end of a paragraph, else of a line, at or after `at`; `at` + LOOK_AHEAD when there is neither. */
function border(fetched: Piece, at: number, characters: number): number {
  if (at <= 0) return 0
  if (at >= characters) return characters
  const start = at - 2
  const window = codePointSlice(fetched.text, start - fetched.from, at + LOOK_AHEAD - fetched.from)
  const end = window.indexOf('\n\n')
  if (end >= 0) return start + codePointLength(window.slice(0, end)) + 2
  const line = window.indexOf('\n', 1)
  if (line >= 0) return start + codePointLength(window.slice(0, line)) + 1
  return Math.min(characters, at + LOOK_AHEAD)
}

/** Chunks that may show a character: its own, or the one before, whose last paragraph reached over. */
export function chunksNear(char: number): [number, number] {
  const index = Math.floor(char / CHUNK)
  return [Math.max(0, index - 1), index]
}
