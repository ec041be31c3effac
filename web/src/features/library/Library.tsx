import type { UseQueryResult } from '@tanstack/react-query'
import type { Source } from '../../api/types'
import { ProblemNote } from '../../shared/ProblemNote'
import { AddSource } from './AddSource'
import type { useAdd } from './queries'
import { SourceItem } from './SourceItem'
import { Storage } from './Storage'

interface Props {
  sources: UseQueryResult<Source[]>
  open: string | null
  add: ReturnType<typeof useAdd>
}

/** Everything on the shelf, newest first. */
export function Library({ sources, open, add }: Props) {
  return (
    <div className="library">
      <h2>Library</h2>
      <AddSource add={add} />
      {sources.error && <ProblemNote error={sources.error} retry={() => void sources.refetch()} />}
      {sources.data?.length === 0 && <p className="quiet">Nothing here yet.</p>}
      <ul>
        {sources.data?.map((source) => (
          <SourceItem key={source.id} source={source} open={source.id === open} />
        ))}
      </ul>
      <Storage />
    </div>
  )
}
