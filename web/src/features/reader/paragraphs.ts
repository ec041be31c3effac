/** A piece of text as paragraphs to set: every letter stays, with its offset; only the looks differ. */
import { codePointLength } from '../../shared/codepoints'

/** flow: hard-wrapped prose, set as running text. lines: set as it was broken. code: in a fixed pitch. */
export type Look = 'heading' | 'flow' | 'lines' | 'code'

export interface Paragraph {
  from: number
  text: string // without the empty lines that end it
  look: Look
}

const FENCE = /^ {0,3}(```|~~~)/
const HASHES = /^ {0,3}#{1,6}\s/
const BROKEN_ON_PURPOSE = /^(\s{2,}\S|[-*+•|>]\s|\d{1,3}[.)]\s|\|)/

/** `starts`: where chapters begin, so that their first lines look like headings. */
export function paragraphs(text: string, from: number, starts: ReadonlySet<number> = new Set()): Paragraph[] {
  const found: Paragraph[] = []
  let open: { from: number; lines: string[]; fenced: boolean } | null = null
  let at = from

  const close = () => {
    if (open) found.push({ from: open.from, text: open.lines.join('\n'), look: look(open.lines, open.from, starts) })
    open = null
  }
  for (const line of text.split('\n')) {
    const fence = FENCE.test(line)
    const heading = starts.has(at) || HASHES.test(line)
    if (!open?.fenced && (!line.trim() || fence || heading)) close()
    if (open || line.trim()) {
      open ??= { from: at, lines: [], fenced: fence }
      open.lines.push(line)
      const closesFence: boolean = open.fenced && fence && open.lines.length > 1
      if (closesFence || (HASHES.test(line) && !open.fenced)) close()
    }
    at += codePointLength(line) + 1
  }
  close()
  return found
}

function look(lines: string[], from: number, starts: ReadonlySet<number>): Look {
  const first = lines[0] ?? ''
  if (FENCE.test(first) || lines.every((line) => /^( {4}|\t)/.test(line))) return 'code'
  if (HASHES.test(first) || (starts.has(from) && lines.length <= 3)) return 'heading'
  return isHardWrapped(lines) ? 'flow' : 'lines'
}

/** Lines of prose are nearly full but for the last; verse, lists and tables are not. */
function isHardWrapped(lines: string[]): boolean {
  const body = lines.slice(0, -1)
  return body.every((line) => line.length >= 45 && line.length <= 120) && !lines.some((line) => BROKEN_ON_PURPOSE.test(line))
}
