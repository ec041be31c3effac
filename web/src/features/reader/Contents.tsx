import { useDeferredValue, useEffect, useId, useRef, useState } from 'react'
import type { Chapter, Source } from '../../api/types'
import { showChapter } from '../../shared/focus'
import { useStore } from '../../shared/store'
import { chapterAt, viewStore } from './outline'

const FILTER_FROM = 25

/** Chapters of a document, or files of a repository. */
export function Contents({ source }: { source: Source }) {
  const [filter, setFilter] = useState('')
  const wanted = useDeferredValue(filter.trim().toLowerCase())
  const view = useStore(viewStore)
  const current = view?.source === source.id ? chapterAt(source.outline, view.char) : -1
  const id = useId()
  if (!source.outline.length) return null
  const files = source.kind === 'repository'
  return (
    <nav className="contents" aria-labelledby={id}>
      <h2 id={id}>{files ? 'Files' : 'Chapters'}</h2>
      {source.outline.length >= FILTER_FROM && (
        <input type="search" value={filter} onChange={(event) => setFilter(event.target.value)} placeholder="Find…" aria-label={`Find in ${files ? 'files' : 'chapters'}`} />
      )}
      <ol>
        {inOrder(source).map(({ chapter, index }) =>
          nameOf(chapter).toLowerCase().includes(wanted) ? (
            <Entry key={chapter.char[0] + chapter.title} source={source} chapter={chapter} current={index === current} />
          ) : null,
        )}
      </ol>
    </nav>
  )
}

/** Files by their path: they stand in the text in the order in which they were read. */
function inOrder({ kind, outline }: Source): { chapter: Chapter; index: number }[] {
  const entries = outline.map((chapter, index) => ({ chapter, index }))
  return kind === 'repository' ? entries.sort((a, b) => nameOf(a.chapter).localeCompare(nameOf(b.chapter))) : entries
}

function Entry({ source, chapter, current }: { source: Source; chapter: Chapter; current: boolean }) {
  const button = useRef<HTMLButtonElement>(null)
  useEffect(() => {
    if (current) button.current?.scrollIntoView({ block: 'nearest' })
  }, [current])
  const path = source.kind === 'repository' ? nameOf(chapter) : ''
  const slash = path.lastIndexOf('/') + 1
  return (
    <li>
      <button
        ref={button}
        className={`entry level-${Math.min(3, chapter.level)}`}
        aria-current={current || undefined}
        onClick={() => showChapter(source.id, chapter.char)}
        title={nameOf(chapter)}
      >
        {path ? <><span className="folder">{path.slice(0, slash)}</span>{path.slice(slash)}</> : chapter.title}
      </button>
    </li>
  )
}

function nameOf(chapter: Chapter): string {
  return chapter.path ?? chapter.title
}
