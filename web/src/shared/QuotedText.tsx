import { useMemo } from 'react'
import type { Chapter, Quote } from '../api/types'
import { withChips } from './chips'
import { quoteNumber } from './focus'
import { MATCH_WORDS, whereabouts } from './format'
import { QuoteChip } from './QuoteChip'

interface Props {
  owner: string // the message or summary
  text: string
  quotes: Quote[]
  outline: Chapter[]
}

/** A text with chips where its quotes stand, and below it where each of them is in the source. */
export function QuotedText({ owner, text, quotes, outline }: Props) {
  const pieces = useMemo(() => withChips(text, quotes), [text, quotes])
  return (
    <>
      <p className={quotes.some((quote) => quote.path) ? 'said code' : 'said'}>
        {pieces.map((piece, index) =>
          'text' in piece ? <span key={index}>{piece.text}</span> : <QuoteChip key={index} owner={owner} quotes={quotes} index={piece.quote} />,
        )}
      </p>
      {quotes.length > 0 && (
        <ol className="quotes" aria-label="Quotes">
          {quotes.map((quote, index) => (
            <QuoteLine key={index} owner={owner} quotes={quotes} index={index} outline={outline} inText={text.includes(quote.text)} />
          ))}
        </ol>
      )}
    </>
  )
}

interface LineProps {
  owner: string
  quotes: Quote[]
  index: number
  outline: Chapter[]
  inText: boolean
}

function QuoteLine({ owner, quotes, index, outline, inText }: LineProps) {
  const quote = quotes[index]!
  return (
    <li value={quoteNumber(quote, index)}>
      <QuoteChip owner={owner} quotes={quotes} index={index} />
      <div>
        {!inText && quote.text && <q>{quote.text}</q>}
        <p className="quiet">
          {quote.char ? whereabouts(quote, outline) : ''} <span className={`match ${quote.match}`}>{MATCH_WORDS[quote.match]}</span>
        </p>
      </div>
    </li>
  )
}
