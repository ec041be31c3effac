import { useCallback, useEffect, useMemo } from 'react'
import type { Source } from './api/types'
import { ASK_BOX } from './features/chat/AskBox'
import { Chat } from './features/chat/Chat'
import { stopAnswer } from './features/chat/useAsk'
import { Library } from './features/library/Library'
import { useAdd, useSource, useSources } from './features/library/queries'
import { useDrop } from './features/library/useDrop'
import { Contents } from './features/reader/Contents'
import { Reader } from './features/reader/Reader'
import { Summaries } from './features/summaries/Summaries'
import { Announcer } from './shared/Announcer'
import { Bookmark } from './shared/Bookmark'
import { stepQuote } from './shared/focus'
import { panelStore, showPanel, type Panel } from './shared/panel'
import { usePlace } from './shared/place'
import { ProblemNote } from './shared/ProblemNote'
import { openSettings } from './shared/settings'
import { SettingsDialog } from './shared/SettingsDialog'
import { useStore } from './shared/store'
import { Tabs } from './shared/Tabs'
import { useKeys } from './shared/useKeys'

const PANELS: [Panel, string][] = [['library', 'Library'], ['text', 'Text'], ['ask', 'Ask']]

/** The reading room: shelf, text, conversation. On a narrow screen one of them at a time. */
export function App() {
  const place = usePlace()
  const sources = useSources()
  const source = useSource(place.source)
  const add = useAdd()
  const over = useDrop(useCallback((files) => add.mutate(files), [add]))
  const wanted = useStore(panelStore)
  const panel = wanted === 'text' && place.source === null ? 'library' : wanted
  useTitle(source.data)
  useShortcuts()

  return (
    <div className="page" data-panel-open={panel}>
      <a className="skip" href="#text-panel" onClick={(event) => (event.preventDefault(), showPanel('text'), document.getElementById('text-panel')?.focus())}>
        Skip to the text
      </a>
      <header className="top">
        <h1>
          <Bookmark /> <span>Shiori</span>
        </h1>
        <nav aria-label="Panels" className="panel-switch">
          {PANELS.map(([name, label]) => (
            <button key={name} aria-pressed={panel === name} onClick={() => showPanel(name)}>
              {label}
            </button>
          ))}
        </nav>
        <button className="plain" onClick={openSettings}>
          Settings
        </button>
      </header>
      <aside className="panel library-panel" data-panel="library" tabIndex={-1} aria-label="Library">
        <Library sources={sources} open={place.source} add={add} />
        {source.data && <Contents source={source.data} />}
      </aside>
      <main className="panel text-panel" id="text-panel" data-panel="text" tabIndex={-1} aria-label="Text">
        {source.data && <Reader source={source.data} />}
        {!source.data && source.error && <ProblemNote error={source.error} retry={() => void source.refetch()} />}
        {place.source === null && <Welcome empty={sources.data?.length === 0} />}
      </main>
      <aside className="panel ask-panel" data-panel="ask" tabIndex={-1} aria-label="Ask">
        {source.data && <Conversation source={source.data} session={place.session} />}
      </aside>
      {over && <div className="drop">Drop files to add them to the library</div>}
      <Announcer />
      <SettingsDialog />
    </div>
  )
}

function Conversation({ source, session }: { source: Source; session: string | null }) {
  return (
    <Tabs
      label="Conversation and summaries"
      tabs={[
        { id: 'ask', label: 'Ask', content: <Chat source={source} session={session} /> },
        { id: 'summaries', label: 'Summaries', content: <Summaries source={source} /> },
      ]}
    />
  )
}

function Welcome({ empty }: { empty: boolean }) {
  return (
    <div className="welcome">
      <Bookmark />
      <h2>{empty ? 'Put a book on the shelf' : 'Open a book'}</h2>
      <p>
        {empty ? 'Drop a file anywhere on this page: a book, a paper, a page of notes, or a zip of source code. ' : 'Choose one in the library, or drop a new file anywhere on this page. '}
        It is read once. After that you can ask about it at any time, and every answer shows its place in the text.
      </p>
    </div>
  )
}

function useShortcuts(): void {
  const toAsk = useCallback(() => {
    showPanel('ask')
    document.getElementById('tab-ask')?.click()
    requestAnimationFrame(() => document.getElementById(ASK_BOX)?.focus())
  }, [])
  useKeys(useMemo(() => ({ '/': toAsk, n: () => stepQuote(1), p: () => stepQuote(-1), Escape: stopAnswer }), [toAsk]))
}

function useTitle(source: Source | undefined): void {
  useEffect(() => {
    document.title = source ? `${source.title} – Shiori` : 'Shiori'
  }, [source])
}
