/** Where the chips of an answer go: after the span that a quote covers, or where the text says [n]. */
import type { Quote } from '../api/types'
import { utf16Index } from './codepoints'
import { quoteNumber } from './focus'

const CLOSING = /["”’»」』]/

export type Piece = { text: string } | { quote: number } // index into the quotes

interface Cut {
  at: number // UTF-16 index where the chip goes
  skip: number // letters it replaces
  quote: number
}

export function withChips(text: string, quotes: Quote[]): Piece[] {
  const pieces: Piece[] = []
  let done = 0
  for (const cut of cuts(text, quotes)) {
    if (cut.at < done) continue
    if (cut.at > done) pieces.push({ text: text.slice(done, cut.at) })
    pieces.push({ quote: cut.quote })
    done = cut.at + cut.skip
  }
  if (done < text.length) pieces.push({ text: text.slice(done) })
  return pieces
}

/** Behind the quotation mark that closes the quote, if one does. */
function behindMarks(text: string, at: number): number {
  return CLOSING.test(text[at] ?? '') ? at + 1 : at
}

function cuts(text: string, quotes: Quote[]): Cut[] {
  const named = [...text.matchAll(/\[(\d{1,3})\]/g)].flatMap((found): Cut[] => {
    const quote = quotes.findIndex((candidate, index) => quoteNumber(candidate, index) === Number(found[1]))
    return quote < 0 ? [] : [{ at: found.index, skip: found[0].length, quote }]
  })
  const spanned = quotes.flatMap((quote, index): Cut[] =>
    quote.span && !named.some((cut) => cut.quote === index) ? [{ at: behindMarks(text, utf16Index(text, quote.span[1])), skip: 0, quote: index }] : [],
  )
  return [...named, ...spanned].sort((a, b) => a.at - b.at)
}
