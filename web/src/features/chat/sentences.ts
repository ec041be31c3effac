import { useEffect, useRef } from 'react'
import { announce } from '../../shared/Announcer'

const END = /[.!?…。！？]["”’)»」』]*(?=\s)|[。！？]|\n/g

/** How much of a growing text is whole sentences. */
export function wholeSentences(text: string): number {
  const last = [...text.matchAll(END)].at(-1)
  return last ? last.index + last[0].length : 0
}

/** Tells screen readers an answer sentence by sentence, not word by word. */
export function useSpoken(text: string, whole: boolean): void {
  const said = useRef(0)
  useEffect(() => {
    const upTo = whole ? text.length : wholeSentences(text)
    if (text.length < said.current) said.current = 0
    if (upTo > said.current) announce('answer', text.slice(said.current, upTo).trim())
    said.current = Math.max(upTo, said.current)
  }, [text, whole])
}
