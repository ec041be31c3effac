import { useQuery } from '@tanstack/react-query'
import { getSummaries } from '../../api/sources'
import type { Source, Summary } from '../../api/types'
import { ProblemNote } from '../../shared/ProblemNote'
import { QuotedText } from '../../shared/QuotedText'
import { isActive } from '../library/queries'

const POLL_MS = 5000

/** The whole first, then chapter by chapter. */
export function Summaries({ source }: { source: Source }) {
  const { data, error, refetch } = useQuery({
    queryKey: ['summaries', source.id],
    queryFn: ({ signal }) => getSummaries(source.id, signal),
    refetchInterval: (query) => (isComplete(query.state.data, source) ? false : POLL_MS),
    select: inOrder,
  })
  if (error && !data) return <ProblemNote error={error} retry={() => void refetch()} />
  if (!data) return <p className="quiet">Fetching the summaries…</p>
  if (!data.length) return <p className="quiet empty">{emptyWords(source)}</p>
  return (
    <div className="summaries">
      {data.map((summary) => (
        <article key={summary.chapter ?? 'whole'}>
          <h3>{summary.chapter === null ? 'The whole' : summary.title}</h3>
          <QuotedText owner={`${source.id}/${summary.chapter}`} text={summary.text} quotes={summary.quotes} outline={source.outline} />
        </article>
      ))}
    </div>
  )
}

function inOrder(summaries: Summary[]): Summary[] {
  return summaries.toSorted((a, b) => (a.chapter ?? -1) - (b.chapter ?? -1))
}

/** The summary of the whole is written last. */
function isComplete(summaries: Summary[] | undefined, source: Source): boolean {
  if (source.status === 'failed' || source.status === 'cancelled') return true
  return summaries?.some((summary) => summary.chapter === null) ?? false
}

function emptyWords(source: Source): string {
  if (source.status === 'ready') return 'The summaries are being made from sentences of the text. They appear here one after another.'
  if (isActive(source)) return 'Summaries are made once the text has been read.'
  return 'There is no summary, because the text was not read to its end.'
}
