/** Server-sent events over fetch: EventSource can neither POST nor carry a key. */
import { send } from './http'

export interface ServerEvent {
  id: string
  event: string
  data: string
}

/** Feeds on text in pieces of any size; hands each whole event to `emit`. */
export class SseParser {
  private rest = ''
  private id = ''
  private event = ''
  private data: string[] = []

  constructor(private readonly emit: (event: ServerEvent) => void) {}

  push(piece: string): void {
    const text = this.rest + piece
    const lines = text.split(/\r\n|\n|\r(?!$)/) // a "\r" at the very end may be half of "\r\n"
    this.rest = lines.pop() ?? ''
    for (const line of lines) this.line(line)
  }

  private line(line: string): void {
    if (line === '') return this.dispatch()
    const colon = line.indexOf(':')
    if (colon === 0) return // a comment: heartbeat
    const field = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (field === 'data') this.data.push(value)
    else if (field === 'event') this.event = value
    else if (field === 'id') this.id = value
  }

  private dispatch(): void {
    if (this.data.length) this.emit({ id: this.id, event: this.event || 'message', data: this.data.join('\n') })
    this.event = ''
    this.data = []
  }
}

/** Sends the request and yields its events until the stream ends. */
export async function* events(path: string, init: RequestInit = {}): AsyncGenerator<ServerEvent> {
  const headers = new Headers(init.headers)
  headers.set('Accept', 'text/event-stream')
  const response = await send(path, { ...init, headers })
  const ready: ServerEvent[] = []
  const parser = new SseParser((event) => ready.push(event))
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      parser.push(value)
      yield* ready.splice(0)
    }
  } finally {
    reader.cancel().catch(() => undefined)
  }
}
