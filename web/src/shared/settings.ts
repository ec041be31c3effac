import { createStore } from './store'

const SHORTCUTS = 'shiori.shortcuts'

export const settingsOpen = createStore(false)

export function openSettings(): void {
  settingsOpen.set(true)
}

/** Single letters as shortcuts can get in the way of speech input, so they can be turned off. */
export function lettersAreShortcuts(): boolean {
  return localStorage.getItem(SHORTCUTS) !== 'off'
}

export function setLettersAreShortcuts(on: boolean): void {
  localStorage.setItem(SHORTCUTS, on ? 'on' : 'off')
}
