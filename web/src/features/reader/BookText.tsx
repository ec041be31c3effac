import { useMemo } from 'react'
import type { Source } from '../../api/types'
import type { Target } from '../../shared/focus'
import { Chunk } from './Chunk'
import { chunkCount, chunksNear } from './chunks'
import type { Mark } from './marks'

interface Props {
  source: Source
  characters: number
  marks: Mark[]
  target: Target | null
}

/** A document from its first letter to its last, loaded where it is looked at. */
export function BookText({ source, characters, marks, target }: Props) {
  const starts = useMemo(() => new Set(source.outline.map((chapter) => chapter.char[0])), [source.outline])
  const [first, last] = target ? chunksNear(target.char[0]) : [-1, -1]
  return (
    <article className="book">
      {Array.from({ length: chunkCount(characters) }, (_, index) => (
        <Chunk
          key={index}
          source={source.id}
          index={index}
          characters={characters}
          starts={starts}
          marks={marks}
          wanted={index >= first && index <= last}
        />
      ))}
    </article>
  )
}
