/** Documents and repositories: the same routes under two names. */
import { getJson, getList, postJson, send } from './http'
import type { Source, Summaries, TextPiece } from './types'

const ARCHIVE = /\.(zip|tar|tar\.gz|tgz)$/i

/** The route of a source, told by its id's prefix. */
export function sourcePath(id: string): string {
  return `/v1/${id.startsWith('rep_') ? 'repositories' : 'documents'}/${encodeURIComponent(id)}`
}

export async function listSources(signal?: AbortSignal): Promise<Source[]> {
  const [documents, repositories] = await Promise.all([
    getList<Source>('/v1/documents?limit=200', signal),
    getList<Source>('/v1/repositories?limit=200', signal),
  ])
  return [...documents, ...repositories].sort(newestFirst)
}

function newestFirst(a: Source, b: Source): number {
  return (b.created_at ?? '').localeCompare(a.created_at ?? '') || a.title.localeCompare(b.title)
}

export function getSource(id: string, signal?: AbortSignal): Promise<Source> {
  return getJson<Source>(sourcePath(id), signal)
}

export async function uploadFile(file: File): Promise<Source> {
  const form = new FormData()
  form.append('file', file)
  const path = ARCHIVE.test(file.name) ? '/v1/repositories' : '/v1/documents'
  return (await send(path, { method: 'POST', body: form })).json() as Promise<Source>
}

export function addRepository(url: string, revision: string): Promise<Source> {
  return postJson<Source>('/v1/repositories', revision ? { url, revision } : { url })
}

export async function removeSource(id: string): Promise<void> {
  await send(sourcePath(id), { method: 'DELETE' })
}

/** Text [from, to); asks again when the server gives less than was asked for. */
export async function getText(id: string, from: number, to: number, signal?: AbortSignal): Promise<TextPiece> {
  const first = await piece(id, from, to, signal)
  const end = Math.min(to, first.characters)
  if (first.to >= end || first.to <= first.from) return first
  const rest = await getText(id, first.to, end, signal)
  return { ...first, text: first.text + rest.text, to: rest.to }
}

function piece(id: string, from: number, to: number, signal?: AbortSignal): Promise<TextPiece> {
  return getJson<TextPiece>(`${sourcePath(id)}/text?from=${from}&to=${to}`, signal)
}

export function getSummaries(id: string, signal?: AbortSignal): Promise<Summaries> {
  return getJson<Summaries>(`${sourcePath(id)}/summaries`, signal)
}

export function makeSummaries(id: string): Promise<Summaries> {
  return postJson<Summaries>(`${sourcePath(id)}/summaries`, {})
}
