import { describe, expect, it } from 'vitest'
import { codePointLength, codePointSlice, utf16Index } from './codepoints'

describe('code points', () => {
  it('are counted as Python counts them', () => {
    expect(codePointLength('abc')).toBe(3)
    expect(codePointLength('a😀b𝔸')).toBe(4)
    expect(codePointLength('e\u0301')).toBe(2) // a combining accent is its own code point
    expect(codePointLength('\ud83d')).toBe(1) // a lone surrogate
  })

  it('become UTF-16 indices', () => {
    expect(['a😀b', 0, 1, 2, 3, 9].slice(1).map((at) => utf16Index('a😀b', at as number))).toEqual([0, 1, 3, 4, 4])
    expect(utf16Index('plain', 3)).toBe(3)
  })

  it('slice like text[a:b]', () => {
    expect(codePointSlice('栞 is 😀 a 𝔸 bookmark', 2, 8)).toBe('is 😀 a')
    expect(codePointSlice('plain text', 6, 99)).toBe('text')
    expect(codePointSlice('😀😀😀', 1, 2)).toBe('😀')
    expect(codePointSlice('😀', 3, 5)).toBe('')
  })
})
