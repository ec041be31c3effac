import { expect, it } from 'vitest'
import { wholeSentences } from './sentences'

function whole(text: string): string {
  return text.slice(0, wholeSentences(text))
}

it('takes whole sentences only', () => {
  expect(whole('She left. He st')).toBe('She left.')
  expect(whole('“She left.” He')).toBe('“She left.”')
  expect(whole('about 3.14 of')).toBe('')
  expect(whole('彼は去った。彼女')).toBe('彼は去った。')
})
