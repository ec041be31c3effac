import { useEffect, useRef, type ReactNode, type UIEvent } from 'react'
import { isActive, type Message, type Source } from '../../api/types'
import { offerQuotes } from '../../shared/focus'
import { openSession } from '../../shared/place'
import { ProblemNote } from '../../shared/ProblemNote'
import { useStore } from '../../shared/store'
import { Answer, LiveAnswer } from './Answer'
import { AskBox } from './AskBox'
import { forgetLive, isAnswering, liveAnswer, useAsk, useMessages } from './useAsk'

const NEAR_END = 60 // pixels

/** The conversation over a source. */
export function Chat({ source, session }: { source: Source; session: string | null }) {
  const messages = useMessages(session)
  const live = useStore(liveAnswer)
  const mine = live && live.session === session && (session !== null || live.source === source.id) ? live : null
  const ask = useAsk(source.id, session)
  const answering = isAnswering(live)
  const all = (messages.data ?? []).filter((message) => message.id !== mine?.id)
  useOfferLast(session, messages.data)

  return (
    <div className="chat">
      <Scroll watch={`${all.length} ${mine?.draft?.text.length} ${mine?.text.length} ${mine?.quotes.length}`}>
        {session !== null && messages.error && !messages.data && <ProblemNote error={messages.error} retry={() => void messages.refetch()} />}
        {session !== null && messages.isLoading && !mine && <p className="quiet">Fetching the conversation…</p>}
        {all.map((message) => (
          <Answer key={message.id} message={message} outline={source.outline} />
        ))}
        {mine && <LiveAnswer live={mine} outline={source.outline} again={() => ask(mine.question)} />}
        {!all.length && !mine && !messages.isLoading && !messages.error && <NoQuestionYet source={source} />}
      </Scroll>
      {all.length > 0 && (
        <p className="new">
          <button className="small plain" disabled={answering} onClick={() => (forgetLive(), openSession(source.id, null))}>
            Start a new conversation
          </button>
        </p>
      )}
      {canBeAsked(source) && <AskBox ready={source.status === 'ready'} answering={answering} ask={ask} />}
    </div>
  )
}

/** Now or soon. */
function canBeAsked(source: Source): boolean {
  return source.status === 'ready' || isActive(source)
}

function NoQuestionYet({ source }: { source: Source }) {
  if (!canBeAsked(source)) {
    return <p className="quiet empty">This text was not read to its end, so it cannot be asked about. “Try again” in the library goes on where it stopped.</p>
  }
  return (
    <div className="empty quiet">
      <p>Answers point at sentences of the text. Each number opens its place in the text.</p>
      <p className="for-keys">
        <kbd>/</kbd> ask <kbd>n</kbd> <kbd>p</kbd> next and previous quote <kbd>Esc</kbd> stop
      </p>
    </div>
  )
}

/** After a reload, the quotes of the last answer are the ones marked in the text. */
function useOfferLast(session: string | null, messages: Message[] | undefined): void {
  const offered = useRef<string | null>(null)
  useEffect(() => {
    if (!messages || offered.current === session) return
    offered.current = session
    const last = messages.findLast((message) => message.quotes.length > 0)
    offerQuotes(last?.id ?? '', last?.quotes ?? [])
  }, [session, messages])
}

/** Keeps the newest words in view, unless the reader has scrolled up. */
function Scroll({ watch, children }: { watch: string; children: ReactNode }) {
  const box = useRef<HTMLElement>(null)
  const follow = useRef(true)
  useEffect(() => {
    if (follow.current && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [watch])
  const noteWhere = ({ currentTarget: at }: UIEvent) => {
    follow.current = at.scrollHeight - at.scrollTop - at.clientHeight < NEAR_END
  }
  return (
    // A scrolling region must be reachable by keyboard.
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex
    <section ref={box} className="scroll turns" tabIndex={0} aria-label="Conversation" onScroll={noteWhere}>
      {children}
    </section>
  )
}
