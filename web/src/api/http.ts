/** One fetch for everything: the key goes in, problems come out as ApiError. */
import type { Problem } from './types'

const KEY = 'shiori.key'
const NO_ANSWER: Problem = {
  title: 'No answer',
  detail: 'The Shiori server does not answer. Check that it is running, then try again.',
  status: 0,
  code: 'unreachable',
  retryable: true,
}

export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail)
  }
}

export function apiKey(): string {
  return sessionStorage.getItem(KEY) ?? ''
}

export function setApiKey(key: string): void {
  if (key) sessionStorage.setItem(KEY, key)
  else sessionStorage.removeItem(KEY)
}

export async function send(path: string, init: RequestInit = {}): Promise<Response> {
  const headers = new Headers(init.headers)
  if (apiKey()) headers.set('Authorization', `Bearer ${apiKey()}`)
  const response = await fetch(path, { ...init, headers }).catch((cause: unknown) => {
    if (init.signal?.aborted) throw cause
    throw new ApiError(NO_ANSWER)
  })
  if (!response.ok) throw new ApiError(await problemOf(response))
  return response
}

export async function getJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await send(path, signal ? { signal } : {})).json() as Promise<T>
}

export async function postJson<T>(path: string, body: unknown): Promise<T> {
  const init = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) }
  return (await send(path, init)).json() as Promise<T>
}

/** Lists come as {"data": [...]}. */
export async function getList<T>(path: string, signal?: AbortSignal): Promise<T[]> {
  const found = await getJson<{ data: T[] } | T[]>(path, signal)
  return Array.isArray(found) ? found : found.data
}

export function asProblem(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem
  const detail = error instanceof Error ? error.message : String(error)
  return { title: 'Something went wrong in the page', detail, status: 0, code: 'page' }
}

async function problemOf(response: Response): Promise<Problem> {
  const body = (await response.json().catch(() => ({}))) as Partial<Problem>
  return {
    title: body.title ?? response.statusText,
    detail: body.detail ?? plainWords(response.status),
    status: response.status,
    code: body.code ?? `http_${response.status}`,
    retryable: body.retryable ?? response.status >= 500,
  }
}

function plainWords(status: number): string {
  if (status === 413) return 'The file is larger than this server takes.'
  if (status >= 502 && status <= 504) return 'The Shiori server is starting or busy. Try again in a moment.'
  return `The server answered with status ${status} and no explanation. Its log says more.`
}
