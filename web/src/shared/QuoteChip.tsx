import type { Quote } from '../api/types'
import { quoteNumber, showQuote, useFocus } from './focus'
import { MATCH_WORDS } from './format'

interface Props {
  owner: string
  quotes: Quote[]
  index: number
}

/** The number of a quote; activating it shows the place in the text. */
export function QuoteChip({ owner, quotes, index }: Props) {
  const focus = useFocus()
  const quote = quotes[index]!
  const n = quoteNumber(quote, index)
  return (
    <button
      className={`chip ${quote.match}`}
      aria-label={`Quote ${n}, ${MATCH_WORDS[quote.match]}: show in the text`}
      aria-pressed={focus.owner === owner && focus.active === index}
      disabled={!quote.char}
      title={quote.text || MATCH_WORDS[quote.match]}
      onClick={() => showQuote(owner, quotes, index)}
    >
      {n}
    </button>
  )
}
