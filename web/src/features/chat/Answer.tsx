import type { Chapter, Message } from '../../api/types'
import { count, duration } from '../../shared/format'
import { ProblemNote } from '../../shared/ProblemNote'
import { QuotedText } from '../../shared/QuotedText'
import type { Draft, Live } from './live'
import { useSpoken } from './sentences'
import { isUnfinished } from './useAsk'

const ORIGIN = { read: 'from the full reading', retrieved: 'located passages only' }

/** A question and its whole answer. */
export function Answer({ message, outline }: { message: Message; outline: Chapter[] }) {
  return (
    <article className="turn">
      <h3 className="question">{message.question}</h3>
      {message.answer !== null && <QuotedText owner={message.id} text={message.answer} quotes={message.quotes} outline={outline} />}
      {isUnfinished(message) && <p className="quiet working">Still answering</p>}
      {message.status === 'failed' && <ProblemNote error={message.error ?? {}} />}
      {message.status === 'cancelled' && <p className="quiet">Stopped.</p>}
      <Footer message={message} />
    </article>
  )
}

function Footer({ message }: { message: Message }) {
  const words = timeWords(message)
  if (!message.origin && !words) return null
  return (
    <footer>
      {message.origin && <span className={`pill ${message.origin}`}>{ORIGIN[message.origin]}</span>}
      {message.confirmed === false && <span className="pill retrieved">found by search, not confirmed by the reading</span>}
      {words && <span className="quiet">{words}</span>}
    </footer>
  )
}

/** "resumed in 0.4 s, 90,112 tokens not read again · answered in 3.1 s" */
export function timeWords({ timing, usage }: Pick<Message, 'timing' | 'usage'>): string {
  const words: string[] = []
  const again = usage?.resumed_tokens ? `, ${count(usage.resumed_tokens)} tokens not read again` : ''
  if (timing?.restore_ms) words.push(`resumed in ${duration(timing.restore_ms / 1000)}${again}`)
  else if (timing?.restore_ms === 0 && again) words.push(`reading was at hand${again}`)
  if (timing?.total_ms) words.push(`answered in ${duration(timing.total_ms / 1000)}`)
  return words.join(' · ')
}

/** What the model says, before the text has confirmed it. Not read aloud: the checked answer is. */
function Provisional({ draft }: { draft: Draft }) {
  return (
    <div className="draft" role="group" aria-label="Provisional words">
      <p className="said">{draft.text}</p>
      <p className="quiet working">{draft.look === 1 ? 'The model’s words, not checked yet' : 'A second look, at the passages found by search; not checked yet'}</p>
    </div>
  )
}

/** The answer that is arriving now. */
export function LiveAnswer({ live, outline, again }: { live: Live; outline: Chapter[]; again: () => void }) {
  useSpoken(live.text, live.completed !== null || live.problem !== null)
  const stopped = live.problem?.code === 'stopped'
  return (
    <article className="turn">
      <h3 className="question">{live.question}</h3>
      {live.text && <QuotedText owner={live.id} text={live.text} quotes={live.quotes} outline={outline} />}
      {live.draft && !live.problem && <Provisional draft={live.draft} />}
      {!live.text && !live.draft && !live.problem && <p className="quiet working">{live.doing}</p>}
      {live.problem && !stopped && <ProblemNote error={live.problem} retry={again} />}
      {stopped && (
        <p className="quiet">
          Stopped. <button className="small" onClick={again}>Ask again</button>
        </p>
      )}
    </article>
  )
}
