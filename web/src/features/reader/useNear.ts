import { useEffect, useState, type RefObject } from 'react'

const SETTLE_MS = 80 // what flies past while scrolling is not loaded

/** Whether an element is within about a screen of being seen. */
export function useNear(ref: RefObject<HTMLElement | null>): boolean {
  const [near, setNear] = useState(false)
  useEffect(() => {
    let timer = 0
    const observer = new IntersectionObserver(
      ([entry]) => {
        clearTimeout(timer)
        timer = window.setTimeout(() => setNear(entry!.isIntersecting), SETTLE_MS)
      },
      { root: ref.current!.closest('[data-scroll]'), rootMargin: '100% 0px' },
    )
    observer.observe(ref.current!)
    return () => {
      clearTimeout(timer)
      observer.disconnect()
    }
  }, [ref])
  return near
}
