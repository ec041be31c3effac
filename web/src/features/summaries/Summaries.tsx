import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { getSummaries, makeSummaries } from '../../api/sources'
import { isActive, type Source, type Summaries as All, type Summary } from '../../api/types'
import { ProblemNote } from '../../shared/ProblemNote'
import { QuotedText } from '../../shared/QuotedText'

const POLL_MS = 4000

/** The whole first, then chapter by chapter; what is there already is shown while the rest is made. */
export function Summaries({ source }: { source: Source }) {
  const { data, error, refetch } = useQuery({
    queryKey: ['summaries', source.id],
    queryFn: ({ signal }) => getSummaries(source.id, signal),
    refetchInterval: (query) => (isActive(source) || isBeingMade(query.state.data) ? POLL_MS : false),
  })
  if (error && !data) return <ProblemNote error={error} retry={() => void refetch()} />
  if (!data) return <p className="quiet">Fetching the summaries…</p>
  return (
    <div className="summaries">
      <State source={source} all={data} />
      {data.whole && <OneSummary title="The whole" summary={data.whole} source={source} />}
      {data.chapters.map((summary) => (
        <OneSummary key={summary.chapter} title={summary.title} summary={summary} source={source} />
      ))}
    </div>
  )
}

function OneSummary({ title, summary, source }: { title: string; summary: Summary; source: Source }) {
  return (
    <article>
      <h3>{title}</h3>
      <QuotedText owner={`${source.id}/${summary.chapter}`} text={summary.text} quotes={summary.quotes} outline={source.outline} />
    </article>
  )
}

function State({ source, all }: { source: Source; all: All }) {
  if (isActive(source)) return <p className="quiet">Summaries are made once the text has been read.</p>
  if (source.status !== 'ready') return <p className="quiet">There is no summary, because the text was not read to its end.</p>
  if (isBeingMade(all)) {
    const done = all.chapters.length
    return <p className="quiet working">Choosing sentences that sum up each chapter{done ? `; ${done} of ${source.outline.length} done` : ''}</p>
  }
  if (all.status === 'ready') return null
  return (
    <>
      {all.error && <ProblemNote error={all.error} />}
      <Make source={source} />
    </>
  )
}

function Make({ source }: { source: Source }) {
  const client = useQueryClient()
  const make = useMutation({
    mutationFn: () => makeSummaries(source.id),
    onSuccess: (made) => client.setQueryData(['summaries', source.id], made),
  })
  return (
    <>
      <button onClick={() => make.mutate()} disabled={make.isPending}>
        Make the summaries
      </button>
      {make.error && <ProblemNote error={make.error} />}
    </>
  )
}

function isBeingMade(all: All | undefined): boolean {
  return all?.status === 'queued' || all?.status === 'running'
}
