/** Bringing a place of the text into view, while the text around it is still arriving and changing its height. */
import type { Target } from '../../shared/focus'
import { chunksNear } from './chunks'

const GIVE_UP_MS = 15_000
const SETTLED_MS = 700
const USER_MOVED = ['wheel', 'touchmove', 'pointerdown'] as const

/** Scrolls until the place stands still where it should; stops when the user scrolls. Returns how to stop it. */
export function scrollTo(root: HTMLElement, target: Target): () => void {
  const began = performance.now()
  let stillSince = began
  let frame = 0
  const stop = () => {
    cancelAnimationFrame(frame)
    for (const event of USER_MOVED) root.removeEventListener(event, stop)
  }
  const step = (now: number) => {
    const moved = approach(root, target)
    if (moved !== 'still') stillSince = now
    if (now - stillSince > SETTLED_MS || now - began > GIVE_UP_MS) return stop()
    frame = requestAnimationFrame(step)
  }
  for (const event of USER_MOVED) root.addEventListener(event, stop, { passive: true })
  frame = requestAnimationFrame(step)
  return stop
}

function approach(root: HTMLElement, target: Target): 'still' | 'moved' | 'waiting' {
  const element = find(root, target)
  if (!element) {
    root.querySelector(`[data-chunk="${chunksNear(target.char[0])[1]}"]`)?.scrollIntoView({ block: 'start' })
    return 'waiting'
  }
  const wish = target.kind === 'quote' ? root.clientHeight * 0.35 : 24
  const off = element.getBoundingClientRect().top - root.getBoundingClientRect().top - wish
  const before = root.scrollTop
  if (Math.abs(off) > 2) root.scrollTop += off
  return Math.abs(root.scrollTop - before) > 1 ? 'moved' : 'still'
}

function find(root: HTMLElement, target: Target): Element | null {
  if (target.kind === 'quote') return root.querySelector('mark[data-active]')
  const all = root.querySelectorAll<HTMLElement>('[data-char]')
  return [...all].find((element) => Number(element.dataset.char) >= target.char[0] && Number(element.dataset.char) < target.char[1]) ?? null
}

/** The offset of the first paragraph or line that is seen. */
export function charInView(root: HTMLElement): number | null {
  const top = root.getBoundingClientRect().top + 30
  const all = [...root.querySelectorAll<HTMLElement>('[data-char]')]
  let low = 0
  for (let high = all.length; low < high; ) {
    const middle = (low + high) >> 1
    if (all[middle]!.getBoundingClientRect().bottom < top) low = middle + 1
    else high = middle
  }
  const first = all[low]
  return first ? Number(first.dataset.char) : null
}
