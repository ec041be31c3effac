import { useMemo } from 'react'
import type { Chapter } from '../../api/types'
import { codePointLength } from '../../shared/codepoints'
import { ProblemNote } from '../../shared/ProblemNote'
import { Marked } from './Marked'
import type { Mark } from './marks'
import { useText } from './queries'

const LINES_A_BLOCK = 100 // the browser lays out only the blocks that are seen

/** One file of a repository, with its line numbers. */
export function FileText({ source, file, marks }: { source: string; file: Chapter; marks: Mark[] }) {
  const { data, error, refetch } = useText(source, file.char)
  const blocks = useMemo(() => (data ? linesInBlocks(data.text, file.char[0]) : []), [data, file])
  if (error) return <ProblemNote error={error} retry={() => void refetch()} />
  if (!data) return <p className="quiet">Fetching {file.path}…</p>
  return (
    <article className="code-file" aria-label={file.path ?? file.title}>
      {blocks.map((block, index) => (
        <div key={block[0]!.from} className="lines" style={{ containIntrinsicHeight: `auto ${block.length * 21}px` }}>
          {block.map((line, at) => (
            <div key={line.from} className="line" data-line={index * LINES_A_BLOCK + at + 1} data-char={line.from}>
              <code>
                <Marked text={line.text} from={line.from} marks={marks} />
              </code>
            </div>
          ))}
        </div>
      ))}
    </article>
  )
}

interface Line {
  from: number
  text: string
}

function linesInBlocks(text: string, from: number): Line[][] {
  const blocks: Line[][] = []
  const lines = text.replace(/\n$/, '').split('\n')
  let at = from
  lines.forEach((line, index) => {
    if (index % LINES_A_BLOCK === 0) blocks.push([])
    blocks.at(-1)!.push({ from: at, text: line })
    at += codePointLength(line) + 1
  })
  return blocks
}
