import { memo } from 'react'
import { segments, type Mark } from './marks'

interface Props {
  text: string
  from: number
  marks: Mark[]
}

/** Text with its marks. */
export const Marked = memo(function Marked({ text, from, marks }: Props) {
  return segments(text, from, marks).map((part) =>
    part.mark ? (
      <mark key={part.from} data-quote={part.mark.n} data-active={part.mark.active || undefined}>
        {part.mark.char[0] === part.from && <sup aria-label={`Quote ${part.mark.n}`} data-n={part.mark.n} />}
        {part.text}
      </mark>
    ) : (
      part.text
    ),
  )
})
