import { ApiError, send } from './http'
import { events } from './sse'

export async function cancelJob(id: string): Promise<void> {
  await send(`/v1/jobs/${encodeURIComponent(id)}/cancel`, { method: 'POST' })
}

/** One that failed or was stopped goes on from what is saved. */
export async function retryJob(id: string): Promise<void> {
  await send(`/v1/jobs/${encodeURIComponent(id)}/retry`, { method: 'POST' })
}

/** Follows a job to its end; a lost connection is taken up after the last event seen. */
export async function followJob(id: string, onEvent: (event: string, data: unknown) => void, signal: AbortSignal): Promise<void> {
  let last = ''
  for (let pause = 500; !signal.aborted; pause = Math.min(pause * 2, 15_000)) {
    try {
      const headers: HeadersInit = last ? { 'Last-Event-ID': last } : {}
      for await (const event of events(`/v1/jobs/${encodeURIComponent(id)}/events`, { headers, signal })) {
        last = event.id || last
        pause = 500
        onEvent(event.event, JSON.parse(event.data))
        if (event.event === 'done') return
      }
    } catch (error) {
      if (error instanceof ApiError && error.problem.status >= 400 && error.problem.status < 500) return
    }
    await new Promise((resume) => setTimeout(resume, pause))
  }
}
