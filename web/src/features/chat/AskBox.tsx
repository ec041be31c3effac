import { useEffect, useRef, useState, type FormEvent, type KeyboardEvent } from 'react'
import { stopAnswer } from './useAsk'

interface Props {
  ready: boolean
  answering: boolean
  ask: (question: string) => void
}

export const ASK_BOX = 'ask-box'

/** Enter asks, Shift+Enter makes a new line. */
export function AskBox({ ready, answering, ask }: Props) {
  const [question, setQuestion] = useState('')
  const box = useRef<HTMLTextAreaElement>(null)
  useEffect(() => grow(box.current!), [question])

  function submit(event: FormEvent | KeyboardEvent) {
    event.preventDefault()
    if (!question.trim() || answering || !ready) return
    ask(question.trim())
    setQuestion('')
  }
  return (
    <form className="ask" onSubmit={submit}>
      <label htmlFor={ASK_BOX}>Ask about this text</label>
      <div className="ask-row">
        <textarea
          id={ASK_BOX}
          ref={box}
          rows={1}
          value={question}
          aria-keyshortcuts="/"
          placeholder={ready ? 'What does it say about…' : 'You can ask once it has been read'}
          onChange={(event) => setQuestion(event.target.value)}
          onKeyDown={(event) => event.key === 'Enter' && !event.shiftKey && !event.nativeEvent.isComposing && submit(event)}
        />
        {answering ? (
          <button type="button" onClick={stopAnswer} aria-keyshortcuts="Escape">
            Stop
          </button>
        ) : (
          <button className="primary" disabled={!ready || !question.trim()}>
            Ask
          </button>
        )}
      </div>
    </form>
  )
}

function grow(box: HTMLTextAreaElement): void {
  box.style.height = 'auto'
  box.style.height = `${Math.min(box.scrollHeight + 2, 180)}px`
}
