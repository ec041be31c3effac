import { useEffect } from 'react'
import { lettersAreShortcuts } from './settings'

export type Keys = Record<string, () => void>

const PANELS = '[data-panel]'

/** Keys for the whole page. Single letters work only outside of text fields, and can be turned off. */
export function useKeys(keys: Keys): void {
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return
      if (event.key === 'F6') return movePanel(event)
      const run = keys[event.key]
      if (!run || (event.key.length === 1 && (isTyping(event) || !lettersAreShortcuts()))) return
      event.preventDefault()
      run()
    }
    document.addEventListener('keydown', pressed)
    return () => document.removeEventListener('keydown', pressed)
  }, [keys])
}

function isTyping(event: KeyboardEvent): boolean {
  return event.target instanceof HTMLElement && event.target.matches('input:not([type=checkbox]), textarea, select')
}

/** F6 and Shift+F6 go from panel to panel. */
function movePanel(event: KeyboardEvent): void {
  const panels = [...document.querySelectorAll<HTMLElement>(PANELS)].filter((panel) => panel.offsetParent !== null)
  const now = panels.findIndex((panel) => panel.contains(document.activeElement))
  const next = panels.at((now + (event.shiftKey ? -1 : 1)) % panels.length)
  event.preventDefault()
  next?.focus()
}
