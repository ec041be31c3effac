/** Where the reader is: source and session, kept in the address so that a reload or a link comes back to it. */
import { showPanel } from './panel'
import { createStore, useStore } from './store'

export interface Place {
  source: string | null
  session: string | null
}

const REMEMBERED = 'shiori.sessions' // source id -> its last session
const store = createStore(parsePlace(globalThis.location?.hash ?? ''))

globalThis.addEventListener?.('hashchange', () => store.set(parsePlace(location.hash)))

export function parsePlace(hash: string): Place {
  const fields = new URLSearchParams(hash.replace(/^#/, ''))
  return { source: fields.get('source'), session: fields.get('session') }
}

export function formatPlace(place: Place): string {
  const fields = new URLSearchParams()
  if (place.source) fields.set('source', place.source)
  if (place.session) fields.set('session', place.session)
  return `#${fields}`
}

export function usePlace(): Place {
  return useStore(store)
}

export function here(): Place {
  return store.get()
}

/** Opens a source with the conversation last held over it. */
export function openSource(source: string | null): void {
  showPanel(source ? 'text' : 'library')
  if (source === here().source) return
  goTo({ source, session: source ? (remembered()[source] ?? null) : null })
}

/** Shows another source's text and stays in the conversation. */
export function showSource(source: string): void {
  if (source !== here().source) goTo({ ...here(), source })
}

export function openSession(source: string, session: string | null): void {
  remember(source, session)
  goTo({ source, session })
}

function goTo(place: Place): void {
  history.pushState(null, '', formatPlace(place))
  store.set(place)
}

function remembered(): Record<string, string> {
  try {
    return JSON.parse(localStorage.getItem(REMEMBERED) ?? '{}') as Record<string, string>
  } catch {
    return {}
  }
}

function remember(source: string, session: string | null): void {
  const { [source]: _, ...others } = remembered()
  localStorage.setItem(REMEMBERED, JSON.stringify(session ? { ...others, [source]: session } : others))
}
