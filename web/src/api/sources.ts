/** Documents and repositories: the same routes under two names. */
import { getJson, getList, postJson, send } from './http'
import type { Source, Summaries, TextPiece, Usage } from './types'

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

/** `previous`: the source that the file is a newer version of. */
export async function uploadFile(file: File, previous?: Source): Promise<Source> {
  const form = new FormData()
  form.append('file', file)
  if (previous) form.append('previous', previous.id)
  const archive = previous ? previous.kind === 'repository' : ARCHIVE.test(file.name)
  const path = archive ? '/v1/repositories' : '/v1/documents'
  return (await send(path, { method: 'POST', body: form })).json() as Promise<Source>
}

/** The newest commit of a repository that came from an address, as a new source. */
export async function refreshRepository(id: string): Promise<Source> {
  return (await send(`${sourcePath(id)}/refresh`, { method: 'POST' })).json() as Promise<Source>
}

export function getUsage(signal?: AbortSignal): Promise<Usage> {
  return getJson<Usage>('/v1/usage', signal)
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
