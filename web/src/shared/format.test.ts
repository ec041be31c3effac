import { expect, it } from 'vitest'
import { bytes, planWords } from './format'

const PLAN = { tokens: 45_900, known_tokens: 42_310, to_read: 3_590, after: null, from: null, seconds: 5 }

it('says what is known and what is left to read', () => {
  expect(planWords(PLAN)).toBe('42,310 of 45,900 tokens are known; 3,590 to read, about 5.0 s')
  expect(planWords({ ...PLAN, known_tokens: 0, to_read: 45_900, seconds: null })).toBe('45,900 tokens to read')
  expect(planWords({ ...PLAN, known_tokens: 45_900, to_read: 0, seconds: null })).toBe('All 45,900 tokens are known: nothing to read')
})

it('counts bytes in thousands', () => {
  expect([0, 999, 1000, 1_250_000, 312_000_000, 999_900_000].map(bytes)).toEqual(['0 B', '999 B', '1.0 KB', '1.3 MB', '312 MB', '1.0 GB'])
})
