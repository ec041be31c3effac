import type { Chapter } from '../../api/types'
import { createStore } from '../../shared/store'

/** The first character of the source that is now seen in the reader. */
export const viewStore = createStore<{ source: string; char: number } | null>(null)

const REMEMBERED = 'shiori.place.' // and the source's id

export function rememberPlace(source: string, char: number): void {
  viewStore.set({ source, char })
  localStorage.setItem(REMEMBERED + source, String(char))
}

/** Where the reader left this source; 0: at its beginning, or never opened. */
export function rememberedPlace(source: string): number {
  return Number(localStorage.getItem(REMEMBERED + source)) || 0
}

/** The chapter or file a character stands in: the last that begins at or before it; -1 before the first. */
export function chapterAt(outline: Chapter[], char: number): number {
  let low = 0
  let high = outline.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (outline[middle]!.char[0] <= char) low = middle + 1
    else high = middle
  }
  return low - 1
}

/** Where a repository opens: its README, else its first file. */
export function firstFile(files: Chapter[]): number {
  const readme = files.findIndex((file) => /^readme(\.\w+)?$/i.test(file.path ?? file.title))
  return Math.max(0, readme)
}
