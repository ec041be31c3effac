import { useEffect, useRef } from 'react'
import type { Progress, Source } from '../../api/types'
import { percent, progressWords } from '../../shared/format'
import { announce } from '../../shared/Announcer'

const PHASES: Record<string, string> = {
  fetching: 'Fetching', cloning: 'Fetching', parsing: 'Taking in the text', planning: 'Looking for what is known', planned: 'Known',
  reading: 'Reading', summarising: 'Summarising',
}

/** How much of a source the model has read. */
export function ReadingBar({ source, progress }: { source: Source; progress: Progress | null }) {
  const done = progress && progress.total > 0 ? percent(progress) : null
  const phase = progress ? (PHASES[progress.phase] ?? progress.phase) : source.status === 'queued' ? 'Waiting to be read' : 'Reading'
  const words = progress && done !== null ? progressWords(progress) : '…'
  useQuarters(source.title, done)
  return (
    <div className="reading">
      <div
        className="bar"
        role="progressbar"
        aria-label={`Reading ${source.title}`}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={done ?? undefined}
        aria-valuetext={`${phase} ${words}`}
      >
        <div style={{ width: `${done ?? 0}%` }} />
      </div>
      <p className="quiet">
        {phase} <span className="figures">{words}</span>
      </p>
    </div>
  )
}

/** Says the progress aloud at every quarter, not at every percent. */
function useQuarters(title: string, done: number | null): void {
  const said = useRef(0)
  const quarter = done === null ? 0 : Math.floor(done / 25)
  useEffect(() => {
    if (quarter > said.current) announce('progress', `Reading ${title}: ${quarter * 25} percent`)
    said.current = quarter
  }, [quarter, title])
}
