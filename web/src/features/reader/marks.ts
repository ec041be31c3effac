/** Cutting a stretch of text where marks begin and end. All offsets are code points of the whole source. */
import type { Quote, Span } from '../../api/types'
import { codePointLength, codePointSlice } from '../../shared/codepoints'
import { quoteNumber, type Focus } from '../../shared/focus'

export interface Mark {
  char: Span
  n: number
  active: boolean
}

export interface Segment {
  from: number
  text: string
  mark: Mark | null
}

/** The marks of one source, the active one last. */
export function marksOf(focus: Focus, source: string): Mark[] {
  const marks = focus.quotes.flatMap((quote, index) => toMark(quote, index, focus.active, source))
  return marks.sort((a, b) => Number(a.active) - Number(b.active))
}

function toMark(quote: Quote, index: number, active: number, source: string): Mark[] {
  if (!quote.char || quote.source_id !== source) return []
  return [{ char: quote.char, n: quoteNumber(quote, index), active: index === active }]
}

/** `text` begins at `from`. Where marks overlap, the later in the list wins. */
export function segments(text: string, from: number, marks: Mark[]): Segment[] {
  const to = from + codePointLength(text)
  const touching = marks.filter((mark) => mark.char[0] < to && mark.char[1] > from)
  if (!touching.length) return text ? [{ from, text, mark: null }] : []
  const cuts = new Set([from, to])
  for (const { char } of touching) char.forEach((at) => at > from && at < to && cuts.add(at))
  const edges = [...cuts].sort((a, b) => a - b)
  return edges.slice(0, -1).map((start, i) => ({
    from: start,
    text: codePointSlice(text, start - from, edges[i + 1]! - from),
    mark: touching.findLast((mark) => mark.char[0] <= start && mark.char[1] > start) ?? null,
  }))
}
