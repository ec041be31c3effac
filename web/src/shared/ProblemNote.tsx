import { asProblem } from '../api/http'
import type { Problem } from '../api/types'
import { openSettings } from './settings'

/** An error in plain words, with what can be done about it. */
export function ProblemNote({ error, retry }: { error: unknown; retry?: (() => void) | undefined }) {
  const problem = isProblem(error) ? error : asProblem(error)
  return (
    <div className="note" role="alert">
      <p>{problem.detail ?? problem.title ?? 'Something went wrong and nobody said what. The server’s log says more.'}</p>
      {problem.status === 401 && <button onClick={openSettings}>Enter the key</button>}
      {problem.status !== 401 && retry && <button onClick={retry}>Try again</button>}
    </div>
  )
}

function isProblem(error: unknown): error is Partial<Problem> {
  return typeof error === 'object' && error !== null && !(error instanceof Error)
}
