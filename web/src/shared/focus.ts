/** Which quotes are marked in the text, which one is active, and where the text should scroll to. */
import type { Quote, Span } from '../api/types'
import { showPanel } from './panel'
import { showSource } from './place'
import { createStore, useStore } from './store'

export interface Target {
  source: string
  char: Span
  kind: 'quote' | 'chapter'
}

export interface Focus {
  owner: string // the message or summary whose quotes these are
  quotes: Quote[]
  active: number // index into quotes; -1: none
  target: Target | null // a new object for every wish to scroll, also to the same place
}

const store = createStore<Focus>({ owner: '', quotes: [], active: -1, target: null })

export function useFocus(): Focus {
  return useStore(store)
}

/** The quotes that n and p walk through from now on. */
export function offerQuotes(owner: string, quotes: Quote[]): void {
  store.set({ owner, quotes, active: -1, target: store.get().target })
}

export function showQuote(owner: string, quotes: Quote[], active: number): void {
  const quote = quotes[active]
  if (!quote?.char) return
  showSource(quote.source_id)
  showPanel('text')
  store.set({ owner, quotes, active, target: { source: quote.source_id, char: quote.char, kind: 'quote' } })
}

/** To the next (1) or previous (-1) quote that stands in the text; stays put at either end. */
export function stepQuote(direction: 1 | -1): void {
  const { owner, quotes, active } = store.get()
  const next = nextQuote(quotes, active, direction)
  if (next !== null) showQuote(owner, quotes, next)
}

export function nextQuote(quotes: Quote[], active: number, direction: 1 | -1): number | null {
  const start = active < 0 && direction < 0 ? quotes.length : active
  for (let at = start + direction; at >= 0 && at < quotes.length; at += direction) if (quotes[at]?.char) return at
  return null
}

export function showChapter(source: string, char: Span): void {
  showPanel('text')
  store.set({ ...store.get(), active: -1, target: { source, char, kind: 'chapter' } })
}

/** Back to where the reader was: the first paragraph at or after a character. */
export function showPlace(source: string, char: number): void {
  showChapter(source, [char, Infinity])
}

/** The number people see: the API's own, or the position in the list. */
export function quoteNumber(quote: Quote, index: number): number {
  return quote.n ?? index + 1
}
