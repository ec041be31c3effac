import { useRef } from 'react'
import type { Source } from '../../api/types'
import { ProblemNote } from '../../shared/ProblemNote'
import { useNewVersion } from './queries'

/** Another chapter, another commit: of the new version only what changed is read. */
export function NewVersion({ source }: { source: Source }) {
  const picker = useRef<HTMLInputElement>(null)
  const add = useNewVersion(source)
  const start = () => (source.url ? add.mutate(null) : picker.current?.click())
  const words = source.url ? 'Fetch newest' : 'New version…'
  return (
    <>
      <button className="small plain" onClick={start} disabled={add.isPending} aria-label={`${words} of ${source.title}`}>
        {add.isPending ? 'Sending…' : words}
      </button>
      <input
        ref={picker}
        type="file"
        hidden
        aria-label={`New version of ${source.title}`}
        onChange={(event) => {
          const file = event.target.files?.[0]
          event.target.value = ''
          if (file) add.mutate(file)
        }}
      />
      {add.error && <ProblemNote error={add.error} />}
    </>
  )
}
