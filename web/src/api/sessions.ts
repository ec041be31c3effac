import { getList, postJson } from './http'
import { events, type ServerEvent } from './sse'
import type { Message, Session } from './types'

export function createSession(sourceIds: string[]): Promise<Session> {
  return postJson<Session>('/v1/sessions', { source_ids: sourceIds })
}

export function listMessages(session: string, signal?: AbortSignal): Promise<Message[]> {
  return getList<Message>(`/v1/sessions/${encodeURIComponent(session)}/messages`, signal)
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
