import { memo, useLayoutEffect, useMemo, useRef } from 'react'
import { CHUNK, type Piece } from './chunks'
import { Marked } from './Marked'
import type { Mark } from './marks'
import { paragraphs, type Paragraph } from './paragraphs'
import { useChunk } from './queries'
import { useNear } from './useNear'

interface Props {
  source: string
  index: number
  characters: number
  starts: ReadonlySet<number>
  marks: Mark[]
  wanted: boolean
}

const GUESSED_HEIGHT = (CHUNK / 62) * 28 // letters a line, pixels a line

/** One stretch of a document: an empty box of about the right height until it comes near the window. */
export const Chunk = memo(function Chunk({ source, index, characters, starts, marks, wanted }: Props) {
  const box = useRef<HTMLDivElement>(null)
  const height = useRef(Math.min(GUESSED_HEIGHT, (characters / 62) * 28))
  const shown = useNear(box) || wanted
  const { data, error, refetch } = useChunk(source, index, characters, shown)

  useLayoutEffect(() => {
    if (shown && data && box.current) height.current = box.current.offsetHeight
  })
  const ready = shown && data
  return (
    <div ref={box} className="chunk" data-chunk={index} style={ready ? undefined : { minHeight: height.current }}>
      {ready && <Paragraphs piece={data} starts={starts} marks={marks} />}
      {shown && !data && !error && <p className="quiet">Fetching the text…</p>}
      {error && (
        <p className="note" role="alert">
          This part of the text did not arrive. <button onClick={() => void refetch()}>Fetch it again</button>
        </p>
      )}
    </div>
  )
})

function Paragraphs({ piece, starts, marks }: { piece: Piece; starts: ReadonlySet<number>; marks: Mark[] }) {
  const found = useMemo(() => paragraphs(piece.text, piece.from, starts), [piece, starts])
  return found.map((paragraph) => <Set key={paragraph.from} paragraph={paragraph} marks={marks} />)
}

function Set({ paragraph: { from, text, look }, marks }: { paragraph: Paragraph; marks: Mark[] }) {
  const Tag = look === 'heading' ? 'h3' : look === 'code' ? 'pre' : 'p'
  return (
    <Tag className={`para ${look}`} data-char={from}>
      <Marked text={text} from={from} marks={marks} />
    </Tag>
  )
}
