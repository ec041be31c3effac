import { useState, type KeyboardEvent, type ReactNode } from 'react'

interface Tab {
  id: string
  label: string
  content: ReactNode
}

/** Tabs by the ARIA pattern: arrow keys move, one tab stop. Panels that are not shown keep their state. */
export function Tabs({ label, tabs }: { label: string; tabs: Tab[] }) {
  const [open, setOpen] = useState(tabs[0]!.id)
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
    if (!step) return
    const now = tabs.findIndex((tab) => tab.id === open)
    const next = tabs.at((now + step) % tabs.length)!
    setOpen(next.id)
    document.getElementById(`tab-${next.id}`)?.focus()
  }
  return (
    <div className="tabs">
      <div role="tablist" aria-label={label} tabIndex={-1} onKeyDown={move}>
        {tabs.map((tab) => (
          <button
            key={tab.id}
            id={`tab-${tab.id}`}
            role="tab"
            aria-selected={tab.id === open}
            aria-controls={`panel-${tab.id}`}
            tabIndex={tab.id === open ? 0 : -1}
            onClick={() => setOpen(tab.id)}
          >
            {tab.label}
          </button>
        ))}
      </div>
      {tabs.map((tab) => (
        <div key={tab.id} id={`panel-${tab.id}`} role="tabpanel" aria-labelledby={`tab-${tab.id}`} hidden={tab.id !== open}>
          {tab.content}
        </div>
      ))}
    </div>
  )
}
