import { getList, postJson } from './http'
import { events, type ServerEvent } from './sse'
import type { Message, Session } from './types'

export function createSession(sourceIds: string[]): Promise<Session> {
  return postJson<Session>('/v1/sessions', { source_ids: sourceIds })
}

export async function listMessages(session: string, signal?: AbortSignal): Promise<Message[]> {
  const found = await getList<Message & { content?: string }>(`/v1/sessions/${encodeURIComponent(session)}/messages?limit=100`, signal)
  return found.map((message) => ({ ...message, question: message.question ?? message.content ?? '', quotes: message.quotes ?? [] }))
}

/** Asks, and yields the events of the answer. */
export function ask(session: string, content: string, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  return events(`/v1/sessions/${encodeURIComponent(session)}/messages`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ content }),
    signal,
  })
}
