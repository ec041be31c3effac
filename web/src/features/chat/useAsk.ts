import { useQuery, useQueryClient, type QueryClient } from '@tanstack/react-query'
import { useCallback } from 'react'
import { ApiError, asProblem } from '../../api/http'
import { cancelJob } from '../../api/jobs'
import { ask, createSession, listMessages } from '../../api/sessions'
import type { Message } from '../../api/types'
import { offerQuotes } from '../../shared/focus'
import { openSession } from '../../shared/place'
import { createStore } from '../../shared/store'
import { apply, begin, type Live } from './live'

const POLL_MS = 2000
const LOST = { detail: 'The connection was lost before the answer was whole. Check that the server is running, then ask again.' }

export const liveAnswer = createStore<Live | null>(null)
let stop: AbortController | null = null

export function useMessages(session: string | null) {
  return useQuery({
    queryKey: ['messages', session],
    queryFn: ({ signal }) => listMessages(session!, signal),
    enabled: session !== null,
    refetchInterval: (query) => (query.state.data?.some(isUnfinished) ? POLL_MS : false),
  })
}

export function isUnfinished(message: Message): boolean {
  return message.status === 'queued' || message.status === 'running'
}

export function isAnswering(live: Live | null): boolean {
  return live !== null && !live.problem && !live.completed
}

export function useAsk(source: string, session: string | null) {
  const client = useQueryClient()
  return useCallback((question: string) => void answer(client, source, session, question), [client, source, session])
}

/** Asks and keeps the live answer up to date until it is whole, has failed or was stopped. */
async function answer(client: QueryClient, source: string, session: string | null, question: string): Promise<void> {
  const mine = new AbortController()
  stop = mine
  liveAnswer.set(begin(source, session, question))
  try {
    const id = session ?? (await startSession(source))
    change((live) => ({ ...live, session: id }))
    for await (const { event, data } of ask(id, question, mine.signal)) {
      change((live) => apply(live, event, JSON.parse(data)))
      if (liveAnswer.get()?.completed) return await finish(client, id)
      if (liveAnswer.get()?.problem) return
    }
    change((live) => ({ ...live, problem: LOST }))
    void client.invalidateQueries({ queryKey: ['messages', id] })
  } catch (error) {
    if (!mine.signal.aborted) change((live) => ({ ...live, problem: problemOf(error, live) }))
  }
}

async function startSession(source: string): Promise<string> {
  const { id } = await createSession([source])
  openSession(source, id)
  return id
}

async function finish(client: QueryClient, session: string): Promise<void> {
  const message = liveAnswer.get()!.completed!
  await client.cancelQueries({ queryKey: ['messages', session] }) // it may not know of the end yet
  client.setQueryData<Message[]>(['messages', session], (before = []) => [...before.filter(({ id }) => id !== message.id), message])
  liveAnswer.set(null)
  offerQuotes(message.id, message.quotes)
}

function problemOf(error: unknown, live: Live): Live['problem'] {
  return error instanceof ApiError || !live.job ? asProblem(error) : LOST
}

/** Stops the answer here and on the server. */
export function stopAnswer(): void {
  const live = liveAnswer.get()
  if (!isAnswering(live)) return
  stop?.abort()
  if (live!.job) cancelJob(live!.job).catch(() => undefined)
  change((now) => ({ ...now, problem: { detail: 'Stopped.', code: 'stopped' } }))
}

export function forgetLive(): void {
  if (!isAnswering(liveAnswer.get())) liveAnswer.set(null)
}

function change(how: (live: Live) => Live): void {
  const live = liveAnswer.get()
  if (live) liveAnswer.set(how(live))
}
