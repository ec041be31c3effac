import { memo, useMemo, useRef } from 'react'
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

const LETTERS_A_LINE = 66
const PIXELS_A_LINE = 28

/** One stretch of a document: an empty box of about the right height until it first comes near the window. */
export const Chunk = memo(function Chunk({ source, index, characters, starts, marks, wanted }: Props) {
  const box = useRef<HTMLDivElement>(null)
  const shown = useNear(box, wanted)
  const { data, error, refetch } = useChunk(source, index, characters, shown)
  return (
    <div ref={box} className="chunk" data-chunk={index} style={data ? undefined : { minHeight: guessedHeight(index, characters) }}>
      {data && <Paragraphs piece={data} starts={starts} marks={marks} />}
      {shown && !data && !error && <p className="quiet">Fetching the text…</p>}
      {error && (
        <p className="note" role="alert">
          This part of the text did not arrive. <button onClick={() => void refetch()}>Fetch it again</button>
        </p>
      )}
    </div>
  )
})

function guessedHeight(index: number, characters: number): number {
  return (Math.min(CHUNK, characters - index * CHUNK) / LETTERS_A_LINE) * PIXELS_A_LINE
}

function Paragraphs({ piece, starts, marks }: { piece: Piece; starts: ReadonlySet<number>; marks: Mark[] }) {
  const found = useMemo(() => paragraphs(piece.text, piece.from, starts), [piece, starts])
  return found.map((paragraph) => <Set key={paragraph.from} paragraph={paragraph} marks={marks} />)
}

function Set({ paragraph: { from, text, look }, marks }: { paragraph: Paragraph; marks: Mark[] }) {
  const Tag = look === 'heading' ? 'h3' : look === 'code' ? 'pre' : 'p'
  const hashes = look === 'heading' ? (/^ {0,3}#{1,6}\s+/.exec(text)?.[0] ?? '') : ''
  return (
    <Tag className={`para ${look}`} data-char={from}>
      {hashes && (
        <span className="hashes" aria-hidden="true">
          <Marked text={hashes} from={from} marks={marks} />
        </span>
      )}
      <Marked text={text.slice(hashes.length)} from={from + hashes.length} marks={marks} />
    </Tag>
  )
}
