import { useEffect, useRef, useState } from 'react'
import { isActive, type Source } from '../../api/types'
import { announce } from '../../shared/Announcer'
import { planWords, tokens } from '../../shared/format'
import { openSource } from '../../shared/place'
import { ProblemNote } from '../../shared/ProblemNote'
import { NewVersion } from './NewVersion'
import { useCancel, useProgress, useRemove, useRetry } from './queries'
import { ReadingBar } from './ReadingBar'

/** A source on the shelf. */
export function SourceItem({ source, open }: { source: Source; open: boolean }) {
  const progress = useProgress(source)
  const cancel = useCancel(source)
  const retry = useRetry(source)
  const plan = source.plan ?? progress?.plan
  useSayWhenRead(source)
  return (
    <li className="source" data-status={source.status}>
      <button className="source-open" aria-current={open || undefined} onClick={() => openSource(source.id)}>
        <span className="source-title">{source.title}</span>
        {!isActive(source) && <span className="quiet">{statusWords(source)}</span>}
      </button>
      {isActive(source) && <ReadingBar source={source} progress={progress} />}
      {isActive(source) && plan && <p className="quiet plan">{planWords(plan)}</p>}
      {isActive(source) && source.job_id && (
        <button className="small" onClick={() => cancel.mutate()} disabled={cancel.isPending || cancel.isSuccess} aria-label={`Stop reading ${source.title}`}>
          {cancel.isSuccess ? 'Stopping…' : 'Stop'}
        </button>
      )}
      {cancel.error && <ProblemNote error={cancel.error} />}
      {source.status === 'failed' && <ProblemNote error={source.error ?? {}} />}
      {(source.status === 'failed' || source.status === 'cancelled') && source.job_id && (
        <button className="small" onClick={() => retry.mutate()} disabled={retry.isPending} aria-label={`Try again to read ${source.title}`}>
          Try again
        </button>
      )}
      {retry.error && <ProblemNote error={retry.error} />}
      {open && source.status === 'ready' && <NewVersion source={source} />}
      {open && !isActive(source) && <Remove source={source} />}
    </li>
  )
}

function statusWords(source: Source): string {
  if (source.status === 'ready') return source.tokens ? `Read · ${tokens(source.tokens)}` : 'Read'
  return source.status === 'failed' ? 'Could not be read' : 'Stopped before the end'
}

function Remove({ source }: { source: Source }) {
  const [asked, setAsked] = useState(false)
  const remove = useRemove(source)
  if (!asked) {
    return (
      <button className="small plain" onClick={() => setAsked(true)} aria-label={`Remove ${source.title}`}>
        Remove…
      </button>
    )
  }
  return (
    <div className="ask-first" role="group" aria-label={`Remove ${source.title}?`}>
      <span>Remove the text, its reading and every conversation about it?</span>
      <button className="small danger" onClick={() => remove.mutate()} disabled={remove.isPending}>
        Remove
      </button>
      <button className="small" onClick={() => setAsked(false)}>
        Keep
      </button>
      {remove.error && <ProblemNote error={remove.error} />}
    </div>
  )
}

function useSayWhenRead(source: Source): void {
  const before = useRef(source.status)
  useEffect(() => {
    if (before.current !== source.status && !isActive(source)) announce('progress', `${source.title}: ${statusWords(source)}`)
    before.current = source.status
  }, [source])
}
