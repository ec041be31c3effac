import type { Source } from '../../api/types'
import { stepQuote, nextQuote, quoteNumber, useFocus } from '../../shared/focus'
import { count, MATCH_WORDS, tokens, whereabouts } from '../../shared/format'
import { useStore } from '../../shared/store'
import { chapterAt, viewStore } from './outline'

/** Title, where one is in the text, and the quote that is being looked at. */
export function ReaderHead({ source, characters }: { source: Source; characters: number }) {
  return (
    <header className="reader-head">
      <div className="reader-title">
        <h2>{source.title}</h2>
        <p className="quiet">
          <Where source={source} characters={characters} />
          {source.tokens ? ` · ${tokens(source.tokens)}` : ''}
          {source.status === 'ready' && source.reading?.shared_tokens ? ` · ${count(source.reading.shared_tokens)} of them taken over, ${count(source.reading.read_tokens ?? 0)} read anew` : ''}
          {source.revision ? ` · ${source.revision.slice(0, 10)}` : ''}
        </p>
      </div>
      <QuoteBar source={source} />
    </header>
  )
}

function Where({ source, characters }: { source: Source; characters: number }) {
  const view = useStore(viewStore)
  const char = view?.source === source.id ? view.char : 0
  const chapter = source.outline[chapterAt(source.outline, char)]
  const share = characters > 0 ? `${Math.floor((100 * char) / characters)} %` : ''
  const name = chapter ? (chapter.path ?? chapter.title) : 'Beginning'
  return <span>{source.kind === 'repository' || !share ? name : `${name} · ${share}`}</span>
}

function QuoteBar({ source }: { source: Source }) {
  const { quotes, active } = useFocus()
  const quote = quotes[active]
  const shown = quote?.source_id === source.id ? quote : null
  return (
    <div className="quote-bar" hidden={!shown}>
      <p aria-live="polite">
        {shown && (
          <>
            <strong>Quote {quoteNumber(shown, active)}</strong> {whereabouts(shown, source.outline)}{' '}
            <span className={`match ${shown.match}`}>{MATCH_WORDS[shown.match]}</span> <span className="unseen">{shown.text}</span>
          </>
        )}
      </p>
      <div>
        <button onClick={() => stepQuote(-1)} disabled={nextQuote(quotes, active, -1) === null} aria-keyshortcuts="p">
          Previous
        </button>
        <button onClick={() => stepQuote(1)} disabled={nextQuote(quotes, active, 1) === null} aria-keyshortcuts="n">
          Next
        </button>
      </div>
    </div>
  )
}
