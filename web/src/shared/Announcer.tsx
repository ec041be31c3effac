/** What screen readers are told: answers by the sentence, reading progress on a line of its own. */
import { createStore, useStore } from './store'

const said = { answer: createStore(''), progress: createStore('') }

export function announce(where: keyof typeof said, words: string): void {
  said[where].set(words)
}

export function Announcer() {
  const answer = useStore(said.answer)
  const progress = useStore(said.progress)
  return (
    <div className="unseen">
      <div aria-live="polite" aria-label="Answer">
        {answer}
      </div>
      <div role="status" aria-label="Reading progress">
        {progress}
      </div>
    </div>
  )
}
