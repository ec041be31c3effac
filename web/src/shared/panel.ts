/** On a narrow screen one panel is shown at a time. */
import { createStore } from './store'

export type Panel = 'library' | 'text' | 'ask'

export const panelStore = createStore<Panel>('text')

export function showPanel(panel: Panel): void {
  panelStore.set(panel)
}
