/** Numbers and places in words. */
import type { Chapter, Match, Plan, Progress, Quote } from '../api/types'

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })

export function count(n: number): string {
  return whole.format(n)
}

/** 90_000 tokens -> "90k tokens". */
export function tokens(n: number): string {
  if (n < 10_000) return `${count(n)} tokens`
  return n < 1_000_000 ? `${Math.round(n / 1000)}k tokens` : `${(n / 1_000_000).toFixed(1)}M tokens`
}

export function duration(seconds: number): string {
  if (seconds < 0.05) return 'no time'
  if (seconds < 10) return `${seconds.toFixed(1)} s`
  if (seconds < 90) return `${Math.round(seconds)} s`
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`
}

/** 1_300_000 -> "1.3 MB". */
export function bytes(n: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB']
  let size = n
  let unit = 0
  while (size >= 999.5 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1]
  return `${size < 10 && unit > 0 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`
}

/** "42,310 of 45,900 tokens are known; 3,590 to read, about 5 s" */
export function planWords({ tokens: all, known_tokens: known, to_read, seconds }: Plan): string {
  if (to_read === 0) return `All ${count(all)} tokens are known: nothing to read`
  const time = seconds ? `, about ${duration(seconds)}` : ''
  return known ? `${count(known)} of ${count(all)} tokens are known; ${count(to_read)} to read${time}` : `${count(all)} tokens to read${time}`
}

function remaining(seconds: number): string {
  return seconds < 10 ? 'a few seconds' : duration(seconds)
}

export function percent(progress: Progress): number {
  return progress.total > 0 ? Math.min(100, Math.floor((100 * progress.done) / progress.total)) : 0
}

/** "41 % · 1,250 tokens/s · 2 min left" */
export function progressWords(progress: Progress): string {
  const words = [`${percent(progress)} %`]
  if (progress.rate) words.push(`${count(progress.rate)} tokens/s`)
  if (progress.eta_s) words.push(`${remaining(progress.eta_s)} left`)
  return words.join(' · ')
}

/** Where a quote stands: "The Lamp, line 120", "src/app.py, lines 3–5". */
export function whereabouts(quote: Quote, outline: Chapter[]): string {
  const words = [quote.path ?? chapterTitle(quote, outline)]
  if (quote.page) words.push(`page ${quote.page}`)
  if (quote.line) words.push(lines(quote.line))
  return words.filter(Boolean).join(', ') || 'somewhere in the text'
}

function chapterTitle(quote: Quote, outline: Chapter[]): string {
  if (typeof quote.chapter === 'string') return quote.chapter
  return quote.chapter === null ? '' : (outline[quote.chapter]?.title ?? '')
}

function lines([first, last]: [number, number]): string {
  return first === last ? `line ${first}` : `lines ${first}–${last}`
}

export const MATCH_WORDS: Record<Match, string> = {
  exact: 'word for word',
  normalised: 'same words, other spacing',
  fuzzy: 'close to the text',
  none: 'not found in the text',
}
