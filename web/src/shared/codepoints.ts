/** The API counts Unicode code points (a Python str); JavaScript strings count UTF-16 units. Conversion lives here only. */

const SURROGATES = /[\ud800-\udfff]/

/** How many code points. A lone surrogate counts as one, as it does in Python. */
export function codePointLength(text: string): number {
  if (!SURROGATES.test(text)) return text.length
  let count = 0
  for (const _ of text) count++
  return count
}

/** The UTF-16 index of a code point; clamped to the text. */
export function utf16Index(text: string, codePoint: number): number {
  if (codePoint <= 0) return 0
  if (!SURROGATES.test(text)) return Math.min(codePoint, text.length)
  let index = 0
  for (const character of text) {
    if (codePoint-- === 0) break
    index += character.length
  }
  return index
}

/** text[from:to], as Python has it for 0 <= from <= to. */
export function codePointSlice(text: string, from: number, to: number): string {
  if (!SURROGATES.test(text)) return text.slice(from, to)
  const start = utf16Index(text, from)
  const rest = text.slice(start)
  return rest.slice(0, utf16Index(rest, to - from))
}
