import { useEffect, useEffectEvent, useMemo, useRef, type RefObject } from 'react'
import { isActive, type Source } from '../../api/types'
import { showPlace, useFocus, type Target } from '../../shared/focus'
import { BookText } from './BookText'
import { FileText } from './FileText'
import { marksOf } from './marks'
import { chapterAt, firstFile, rememberedPlace, rememberPlace, viewStore } from './outline'
import { ReaderHead } from './ReaderHead'
import { charInView, scrollTo } from './scroll'

/** The text of one source, with the quotes of the current answer marked in it. */
export function Reader({ source }: { source: Source }) {
  const scroller = useRef<HTMLElement>(null)
  const focus = useFocus()
  const marks = useMemo(() => marksOf(focus, source.id), [focus, source.id])
  const target = focus.target?.source === source.id ? focus.target : null
  const file = openFile(source, target)
  const characters = source.characters ?? 0

  useReturn(source.id, target)
  useEffect(() => (target && scroller.current ? scrollTo(scroller.current, target) : undefined), [target])
  useWhereabouts(scroller, source.id, file, characters)

  return (
    <>
      <ReaderHead source={source} characters={characters} />
      {/* A scrolling region must be reachable by keyboard. */}
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex */}
      <section ref={scroller} className="scroll text" data-scroll tabIndex={0} aria-label={`Text of ${source.title}`}>
        {characters === 0 && <p className="quiet">{noTextWords(source)}</p>}
        {characters > 0 && file < 0 && (
          <BookText key={source.id} source={source} characters={characters} marks={marks} target={target} />
        )}
        {source.outline[file] && <FileText source={source.id} file={source.outline[file]} marks={marks} />}
      </section>
    </>
  )
}

/** Opens a source where it was left, unless something else is wanted. */
function useReturn(source: string, target: Target | null): void {
  const wanted = useEffectEvent(() => {
    const place = target ? 0 : rememberedPlace(source)
    if (place) showPlace(source, place)
  })
  useEffect(() => wanted(), [source])
}

function noTextWords(source: Source): string {
  return isActive(source) ? 'The text appears here as soon as it has been taken in.' : 'There is no text to show.'
}

/** Which file of a repository is open; -1 for a document, which is shown whole. */
function openFile(source: Source, target: Target | null): number {
  if (source.kind !== 'repository') return -1
  return target ? chapterAt(source.outline, target.char[0]) : firstFile(source.outline)
}

/** Tells the outline what is being looked at. */
function useWhereabouts(scroller: RefObject<HTMLElement | null>, source: string, file: number, characters: number) {
  useEffect(() => {
    const root = scroller.current!
    let timer = 0
    const look = () => {
      timer = 0
      const char = charInView(root)
      if (char !== null && (viewStore.get()?.char !== char || viewStore.get()?.source !== source)) rememberPlace(source, char)
    }
    const later = () => (timer ||= window.setTimeout(look, 120))
    later()
    root.addEventListener('scroll', later, { passive: true })
    const observer = new ResizeObserver(later)
    if (root.firstElementChild) observer.observe(root.firstElementChild)
    return () => {
      clearTimeout(timer)
      observer.disconnect()
      root.removeEventListener('scroll', later)
    }
  }, [scroller, source, file, characters])
}
