import { describe, expect, it } from 'vitest'
import { SseParser, type ServerEvent } from './sse'

function parse(...pieces: string[]): ServerEvent[] {
  const found: ServerEvent[] = []
  const parser = new SseParser((event) => found.push(event))
  pieces.forEach((piece) => parser.push(piece))
  return found
}

describe('SseParser', () => {
  it('reads event, id and data', () => {
    expect(parse('id: 5-0\nevent: delta\ndata: {"text":"a"}\n\n')).toEqual([{ id: '5-0', event: 'delta', data: '{"text":"a"}' }])
  })

  it('joins several data lines and ignores comments', () => {
    expect(parse(': keep-alive\n\ndata: one\ndata:two\n\n')).toEqual([{ id: '', event: 'message', data: 'one\ntwo' }])
  })

  it('gives the same events however the stream was cut, with any line ending', () => {
    for (const newline of ['\n', '\r\n', '\r']) {
      const stream = ['id: 1', 'event: a', 'data: x', '', 'id: 2', 'data: y', '', '', ''].join(newline)
      const whole = parse(stream, '\n')
      expect(whole.map((event) => event.data)).toEqual(['x', 'y'])
      expect(parse(...stream, '\n')).toEqual(whole)
    }
  })

  it('keeps the last id for events without one and drops an event that was cut off', () => {
    expect(parse('id: 7\ndata: x\n\ndata: y\n\ndata: lost')).toEqual([
      { id: '7', event: 'message', data: 'x' },
      { id: '7', event: 'message', data: 'y' },
    ])
  })

  it('keeps colons and leading spaces beyond the first', () => {
    expect(parse('data:  a: b\n\n')[0]?.data).toBe(' a: b')
  })
})
