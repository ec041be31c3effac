import { useMutation, useQuery, useQueryClient, type QueryClient } from '@tanstack/react-query'
import { useEffect } from 'react'
import { cancelJob, followJob, retryJob } from '../../api/jobs'
import { addRepository, getSource, getUsage, listSources, refreshRepository, removeSource, uploadFile } from '../../api/sources'
import { isActive, type Progress, type Source } from '../../api/types'
import { here, openSource } from '../../shared/place'

const LIST = ['sources']
const POLL_MS = 2000
const STREAMS = 2 // a browser opens few connections to one server; the other sources are polled

export function useSources() {
  const found = useQuery({
    queryKey: LIST,
    queryFn: ({ signal }) => listSources(signal),
    refetchInterval: (query) => (query.state.data?.some(isActive) ? POLL_MS : false),
  })
  useFollowedJobs(found.data ?? [])
  return found
}

/** One source with its outline, from the list while the whole is on its way. */
export function useSource(id: string | null) {
  const client = useQueryClient()
  return useQuery({
    queryKey: ['source', id],
    queryFn: ({ signal }) => getSource(id!, signal),
    enabled: id !== null,
    refetchInterval: (query) => (query.state.data && isActive(query.state.data) ? POLL_MS : false),
    placeholderData: () => client.getQueryData<Source[]>(LIST)?.find((source) => source.id === id),
  })
}

/** How far a source has been read, as last told by its job. */
export function useProgress(source: Source): Progress | null {
  const { data } = useQuery<Progress | null>({ queryKey: ['progress', source.job_id], queryFn: () => null, staleTime: Infinity })
  return isActive(source) ? (data ?? null) : null
}

function useFollowedJobs(sources: Source[]): void {
  const client = useQueryClient()
  const active = sources.filter((source) => isActive(source) && source.job_id)
  const first = active.toSorted((a, b) => Number(b.status === 'reading') - Number(a.status === 'reading')).slice(0, STREAMS)
  const ids = first.map((source) => source.job_id).toSorted().join(' ')
  useEffect(() => {
    const stop = new AbortController()
    for (const id of ids.split(' ').filter(Boolean)) void follow(client, id, stop.signal)
    return () => stop.abort()
  }, [client, ids])
}

async function follow(client: QueryClient, job: string, signal: AbortSignal): Promise<void> {
  await followJob(job, (event, data) => event === 'progress' && client.setQueryData(['progress', job], data), signal)
  if (!signal.aborted) refresh(client)
}

function refresh(client: QueryClient): void {
  void client.invalidateQueries({ queryKey: LIST })
  void client.invalidateQueries({ queryKey: ['source'] })
  void client.invalidateQueries({ queryKey: ['summaries'] })
  void client.invalidateQueries({ queryKey: ['usage'] })
}

/** Sends files one after another and opens the first that was taken. */
export function useAdd() {
  const client = useQueryClient()
  return useMutation({
    mutationFn: async (what: File[] | { url: string; revision: string }) => {
      if (!Array.isArray(what)) return [await addRepository(what.url, what.revision)]
      const added: Source[] = []
      for (const file of what) added.push(await uploadFile(file))
      return added
    },
    onSuccess: (added) => added[0] && openSource(added[0].id),
    onSettled: () => refresh(client),
  })
}

/** A newer version of a source: a file, or the newest commit of where it came from. */
export function useNewVersion(source: Source) {
  const client = useQueryClient()
  return useMutation({
    mutationFn: (file: File | null) => (file ? uploadFile(file, source) : refreshRepository(source.id)),
    onSuccess: (added) => openSource(added.id),
    onSettled: () => refresh(client),
  })
}

export function useUsage() {
  return useQuery({ queryKey: ['usage'], queryFn: ({ signal }) => getUsage(signal), retry: false, staleTime: 30_000 })
}

export function useRetry(source: Source) {
  const client = useQueryClient()
  return useMutation({ mutationFn: () => retryJob(source.job_id!), onSettled: () => refresh(client) })
}

export function useCancel(source: Source) {
  const client = useQueryClient()
  return useMutation({ mutationFn: () => cancelJob(source.job_id!), onSettled: () => refresh(client) })
}

export function useRemove(source: Source) {
  const client = useQueryClient()
  return useMutation({
    mutationFn: () => removeSource(source.id),
    onSuccess: () => here().source === source.id && openSource(null),
    onSettled: () => refresh(client),
  })
}
