import { useEffect, useState, type RefObject } from 'react'

const SETTLE_MS = 80 // what flies past while scrolling is not loaded

/** Whether an element has been wanted, or within about a screen of being seen. Once true, it stays true. */
export function useNear(ref: RefObject<HTMLElement | null>, wanted: boolean): boolean {
  const [near, setNear] = useState(wanted)
  if (wanted && !near) setNear(true)
  useEffect(() => {
    if (near) return
    let timer = 0
    const observer = new IntersectionObserver(
      ([entry]) => {
        clearTimeout(timer)
        if (entry!.isIntersecting) timer = window.setTimeout(() => setNear(true), SETTLE_MS)
      },
      { root: ref.current!.closest('[data-scroll]'), rootMargin: '100% 0px' },
    )
    observer.observe(ref.current!)
    return () => {
      clearTimeout(timer)
      observer.disconnect()
    }
  }, [ref, near])
  return near
}
